"""Llama, and Vicuna, which is one: the language model of LLaVA-1.5, VARGPT and VLSA."""

from transformers import LlamaForCausalLM

from triptych.models.llms.causal import CausalLlm


class LlamaLlm(CausalLlm):
    """transformers' LlamaForCausalLM."""

    type_name = "llama"
    causal_lm_class = LlamaForCausalLM
