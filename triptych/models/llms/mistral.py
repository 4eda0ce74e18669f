"""Mistral: GenLLaVA's language model."""

from transformers import MistralForCausalLM

from triptych.models.llms.causal import CausalLlm


class MistralLlm(CausalLlm):
    """transformers' MistralForCausalLM."""

    type_name = "mistral"
    causal_lm_class = MistralForCausalLM
