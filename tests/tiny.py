"""A whole checkpoint of random weights in a few seconds: the real classes at the smallest size that runs."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import CLIPVisionConfig, MistralConfig, PreTrainedTokenizerFast, SiglipVisionConfig

from triptych.models.cards import Defaults, Spaces
from triptych.models.checkpoint import write_checkpoint
from triptych.models.decoder_stage import DecoderStage
from triptych.models.decoders.latent_diffusion import LatentDiffusion
from triptych.models.encoder_stage import EncoderStage
from triptych.models.encoders.clip import ClipEncoder
from triptych.models.encoders.siglip import SiglipEncoder
from triptych.models.heads.query_transformer import QueryTransformer
from triptych.models.llm_stage import LlmStage
from triptych.models.llms.mistral import MistralLlm
from triptych.models.processors import ImageProcessor
from triptych.models.projectors.mlp import MlpProjector
from triptych.models.text import TextCodec
from triptych.prompts import PromptTemplate

HIDDEN_SIZE = 32
MAX_MODEL_LEN = 128
NUM_IMG_TOKENS = 4
NUM_IMAGE_TOKENS = 4
TEMPLATE = PromptTemplate(system="", num_img_tokens=NUM_IMG_TOKENS, task_token_position="user_turn")
SENTENCES = ["Where is the red cube?", "USER: draw a blue ball ASSISTANT: here it is", "the cube is left of the ball"]
NOISE_SCHEDULE = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def write_tiny_checkpoint(
    folder: Path,
    *,
    seed: int = 0,
    version: str = "1.0.0",
    dtype: torch.dtype = torch.float32,
    max_model_len: int = MAX_MODEL_LEN,
    max_num_inference_steps: int = 50,
) -> Path:
    """A system that answers at random; the same seed gives the same weights and spaces."""
    torch.manual_seed(seed)
    defaults = {"num_inference_steps": 4, "guidance_scale": 2.0, "max_tokens": 16}
    write_checkpoint(
        folder,
        tiny_encoder(),
        tiny_llm(max_model_len),
        tiny_decoder(),
        name="tiny",
        version=version,
        spaces=Spaces.of_run("tiny", str(seed)),
        made_by={"recipe": "tiny", "seed": seed},
        dtype=dtype,
        defaults=Defaults(**defaults, max_num_inference_steps=max_num_inference_steps),  # type: ignore[arg-type]
    )
    return folder


def tiny_encoder() -> EncoderStage:
    config = SiglipVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=32, patch_size=16
    )
    projector = MlpProjector(MlpProjector.Config(input_size=16, hidden_size=HIDDEN_SIZE))
    return EncoderStage(SiglipEncoder(config), projector, ImageProcessor(size=32)).eval()


def clip_encoder() -> EncoderStage:
    """As tiny_encoder, with the other tower and the other way to make pictures square."""
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=32, patch_size=16
    )
    projector = MlpProjector(MlpProjector.Config(input_size=16, hidden_size=HIDDEN_SIZE))
    return EncoderStage(ClipEncoder(config), projector, ImageProcessor(size=32, fit="crop")).eval()


def tiny_llm(max_model_len: int = MAX_MODEL_LEN) -> LlmStage:
    codec = tiny_codec()
    config = MistralConfig(
        vocab_size=len(codec.tokenizer),
        hidden_size=HIDDEN_SIZE,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=max_model_len,
        sliding_window=None,
        initializer_range=0.2,  # at the usual 0.02 every next token is the last one again
        bos_token_id=codec.special_id("<s>"),
        eos_token_id=codec.special_id("</s>"),
        pad_token_id=codec.special_id("<pad>"),
    )
    return LlmStage(MistralLlm(config), codec, TEMPLATE).eval()


def tiny_codec() -> TextCodec:
    """Byte-level BPE; every byte is in the vocabulary, so any text can be spelled."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    added = ["[T2I]", "[I2T]", *TEMPLATE.image_tokens]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "</s>", "<pad>", *added],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=added,
        clean_up_tokenization_spaces=False,
    )
    return TextCodec(fast)


def tiny_decoder() -> DecoderStage:
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        layers_per_block=1,
    )
    head = QueryTransformer(
        QueryTransformer.Config(
            input_size=HIDDEN_SIZE,
            output_size=16,
            num_queries=6,
            hidden_size=16,
            num_heads=2,
            num_layers=1,
            intermediate_size=32,
        )
    )
    return DecoderStage(head, LatentDiffusion(unet, vae, NOISE_SCHEDULE), torch.randn(1, 6, 16)).eval()
