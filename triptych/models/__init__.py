"""The model components: five tables of strings, imported when asked. A new component is one file and one row here."""

from triptych.registry import Registry

ENCODERS = Registry(
    "encoder",
    {
        "siglip_vision_model": "triptych.models.encoders.siglip:SiglipEncoder",
        "clip_vision_model": "triptych.models.encoders.clip:ClipEncoder",
    },
)
PROJECTORS = Registry("projector", {"mlp": "triptych.models.projectors.mlp:MlpProjector"})
LLMS = Registry(
    "llm",
    {"mistral": "triptych.models.llms.mistral:MistralLlm", "llama": "triptych.models.llms.llama:LlamaLlm"},
)
HEADS = Registry("head", {"query_transformer": "triptych.models.heads.query_transformer:QueryTransformer"})
DECODERS = Registry("decoder", {"latent_diffusion": "triptych.models.decoders.latent_diffusion:LatentDiffusion"})
