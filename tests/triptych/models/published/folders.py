"""Tiny folders in the formats of published models, written by transformers and diffusers themselves."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, trainers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    MistralForCausalLM,
    SiglipConfig,
    SiglipModel,
)

from tests.tiny import SENTENCES

NUM_PATCHES = 4
TEXT_LENGTH = 6  # of the diffusion model's text encoder
CLIP_VOCABULARY = ["<|startoftext|>", "<|endoftext|>", "a", "a</w>", "b", "b</w>"]
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
LLM_SIZES: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.3,  # at the usual 0.02 every next token is the last one again
}


def write_siglip(folder: Path) -> SiglipModel:
    """Both towers in one file, as SigLIP was published."""
    torch.manual_seed(1)
    vision = {**SIZES, "image_size": 32, "patch_size": 16}
    text = {**SIZES, "vocab_size": 40, "projection_size": 32, "bos_token_id": 1, "eos_token_id": 2}
    model = SiglipModel(SiglipConfig(vision_config=vision, text_config=text)).eval()
    model.save_pretrained(str(folder))
    _write_json(
        folder / "preprocessor_config.json",
        do_normalize=True,
        do_rescale=True,
        do_resize=True,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        image_processor_type="SiglipImageProcessor",
        processor_class="SiglipProcessor",
        resample=3,
        rescale_factor=0.00392156862745098,
        size={"height": 32, "width": 32},
    )
    return model


def write_mistral(folder: Path, dtype: torch.dtype = torch.bfloat16) -> MistralForCausalLM:
    torch.manual_seed(2)
    size = write_tokenizer(folder)
    config = MistralConfig(vocab_size=size, **LLM_SIZES, sliding_window=None, tie_word_embeddings=False)
    model = MistralForCausalLM(config).to(dtype).eval()
    model.save_pretrained(str(folder))
    return model


def write_llava(folder: Path, dtype: torch.dtype = torch.float16) -> LlavaForConditionalGeneration:
    torch.manual_seed(3)
    num_tokens = write_tokenizer(folder, "<image>", "<pad>")
    image_id = num_tokens - 2
    text = LlamaConfig(vocab_size=num_tokens + 30, **LLM_SIZES)  # more rows than tokens, as published
    vision = CLIPVisionConfig(**SIZES, image_size=32, patch_size=16)
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=image_id, image_seq_length=NUM_PATCHES
    )
    model = LlavaForConditionalGeneration(config).to(dtype).eval()
    model.save_pretrained(str(folder))
    _write_json(
        folder / "preprocessor_config.json",
        crop_size={"height": 32, "width": 32},
        do_center_crop=True,
        do_convert_rgb=True,
        do_normalize=True,
        do_rescale=True,
        do_resize=True,
        image_mean=[0.48145466, 0.4578275, 0.40821073],
        image_std=[0.26862954, 0.26130258, 0.27577711],
        image_processor_type="CLIPImageProcessor",
        resample=3,
        rescale_factor=0.00392156862745098,
        size={"shortest_edge": 32},
    )
    return model


def write_diffusion(folder: Path) -> None:
    torch.manual_seed(4)
    UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=8,
    ).save_pretrained(str(folder / "unet"))
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    ).save_pretrained(str(folder / "vae"))
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    scheduler = PNDMScheduler(**schedule, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)
    scheduler.save_pretrained(str(folder / "scheduler"))
    text = CLIPTextConfig(
        vocab_size=len(CLIP_VOCABULARY),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TEXT_LENGTH,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    CLIPTextModel(text).eval().save_pretrained(str(folder / "text_encoder"))
    _write_clip_tokenizer(folder / "tokenizer")


def write_tokenizer(folder: Path, *more: str) -> int:
    """The kind of Llama and Mistral: BPE over words with a space in front, unknown characters as bytes. Returns the
    number of tokens; `more` are special and come last."""
    special = ["<unk>", "<s>", "</s>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    as_bytes = [f"<0x{value:02X}>" for value in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=special + as_bytes, show_progress=False)
    # Word by word, as sentencepiece: no token reaches across a space.
    tokenizer.train_from_iterator((word for text in SENTENCES for word in text.split()), trainer)
    values = json.loads(tokenizer.to_str())
    values["added_tokens"] = [token for token in values["added_tokens"] if token["content"] in special]
    tokenizer = Tokenizer.from_str(json.dumps(values))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in more])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json",
        add_bos_token=True,
        add_eos_token=False,
        bos_token={"__type": "AddedToken", "content": "<s>", "lstrip": False},
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>" if "<pad>" in more else None,
        legacy=True,
        model_max_length=256,
        tokenizer_class="LlamaTokenizer",
    )
    return tokenizer.get_vocab_size()


def _write_clip_tokenizer(folder: Path) -> None:
    folder.mkdir(parents=True)
    _write_json(folder / "vocab.json", **{token: index for index, token in enumerate(CLIP_VOCABULARY)})
    (folder / "merges.txt").write_text("#version: 0.2\n")
    _write_json(
        folder / "tokenizer_config.json",
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        do_lower_case=True,
        model_max_length=TEXT_LENGTH,
        tokenizer_class="CLIPTokenizer",
    )


def _write_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps(values, indent=2))
