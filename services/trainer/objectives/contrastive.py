"""The vision encoder: a SigLIP pair trained with the sigmoid loss on pictures and captions."""

import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, logsigmoid, normalize
from transformers import SiglipConfig, SiglipModel, SiglipVisionModel

from services.trainer.config import EncoderStage, Recipe
from services.trainer.data.blocks.edits import edit
from services.trainer.data.blocks.language import caption, told_cell_by_cell
from services.trainer.data.blocks.render import render
from services.trainer.data.blocks.world import Scene, Split, sample_scene
from services.trainer.data.crowds import Crowd, crowd
from services.trainer.data.tokens import PAD
from services.trainer.objectives.base import Objective
from triptych.errors import InvalidArgument
from triptych.models.processors import ImageProcessor
from triptych.models.text import TextCodec

NUM_EVAL_GROUPS = 64


class ParallelCaptioner(nn.Module):
    """All words of a caption at once, from patch features (CapPa, Tschannen et al. 2023); only training has it."""

    def __init__(self, num_words: int, width: int, num_heads: int, vocab_size: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, num_words, width))
        self.norm_seen = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, num_heads, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.words = nn.Linear(width, vocab_size)

    def forward(self, features_BND: Tensor) -> Tensor:
        """Logits (B, num_words, V)."""
        queries = self.queries.expand(len(features_BND), -1, -1)
        patches = self.norm_seen(features_BND)
        seen = queries + self.attention(queries, patches, patches, need_weights=False)[0]
        return self.words(seen + self.mlp(self.norm(seen)))  # type: ignore[no-any-return]


class ContrastiveObjective(Objective):
    """SigLIP's pairwise sigmoid loss (Zhai et al. 2023, eq. 1); groups of scenes one edit apart make hard negatives."""

    name = "encoder"
    needs = ("tokenizer",)

    def __init__(self, recipe: Recipe, inputs: dict[str, Path]) -> None:
        super().__init__(recipe, inputs)
        self.codec = TextCodec.load(inputs["tokenizer"])
        self.pad_id = self.codec.special_id(PAD)
        self.processor = ImageProcessor(size=recipe.encoder.image_size)
        torch.manual_seed(recipe.seed)
        self.pair = SiglipModel(siglip_config(recipe.encoder, len(self.codec.tokenizer)))
        self.pair.set_attn_implementation("eager")
        positions = self.pair.vision_model.embeddings.position_embedding.weight
        positions.data.copy_(
            sincos_positions(recipe.encoder.image_size // recipe.encoder.patch_size, positions.shape[1])
        )
        nn.init.constant_(self.pair.logit_scale, np.log(10.0))
        nn.init.constant_(self.pair.logit_bias, -10.0)
        self.trained = nn.ModuleDict({"pair": self.pair})
        self._num_words = len(self.codec.encode(" " + told_cell_by_cell([None] * 9, "grey")))
        if recipe.encoder.num_crowds:
            self.trained["captioner"] = ParallelCaptioner(
                self._num_words,
                recipe.encoder.hidden_size,
                recipe.encoder.num_heads,
                len(self.codec.tokenizer),
            )
        self.uncompile()

    @property
    def config(self) -> EncoderStage:
        return self.recipe.encoder

    @property
    def module(self) -> nn.Module:
        return self.trained

    def compile(self) -> None:
        self._forward = torch.compile(self._logits, dynamic=False)
        self._describe = torch.compile(self._describe_plain, dynamic=False)

    def uncompile(self) -> None:
        self._forward, self._describe = self._logits, self._describe_plain

    def backward(self, step: int) -> dict[str, Tensor]:
        rng = random.Random(f"encoder/{self.recipe.seed}/{step}")
        pixels, ids = self._batch(rng, self.config.batch_size // self.config.group_size, "train")
        with torch.autocast("cpu", torch.bfloat16):
            logits = self._forward(pixels, ids)
            labels = 2 * torch.eye(len(logits)) - 1
            loss = -logsigmoid(labels * logits.float()).sum(1).mean()
            figures = {"contrast": loss, "picked": (logits.argmax(1) == torch.arange(len(logits))).float().mean()}
            if self.config.num_crowds:
                crowds = [
                    crowd(rng, "train", rng.random() * self.config.filled_cells) for _ in range(self.config.num_crowds)
                ]
                figures["captioning"], figures["words_right"] = self._captioning(crowds)
                loss = loss + self.config.captioning_weight * figures["captioning"]
        loss.backward()
        return {"loss": loss, **figures}

    def _captioning(self, crowds: list[Crowd]) -> tuple[Tensor, Tensor]:
        """Loss and share of words right, from the features that the LLM will see."""
        pixels = self.processor([Image.fromarray(c.picture) for c in crowds])
        words = torch.stack([self._words(c.caption) for c in crowds])
        logits = self._describe(pixels).float()
        return cross_entropy(logits.flatten(0, 1), words.flatten()), (logits.argmax(-1) == words).float().mean()

    def _words(self, caption: str) -> Tensor:
        """One token for every place the captioner has. Raises InvalidArgument when the tokenizer splits a word."""
        ids = self.codec.encode(" " + caption)
        if len(ids) != self._num_words:
            raise InvalidArgument(
                f"tokenizer.vocab_size {self.recipe.tokenizer.vocab_size} is too small for encoder.num_crowds: "
                f"{len(ids)} tokens for {self._num_words} words"
            )
        return torch.tensor(ids)

    def _describe_plain(self, pixels: Tensor) -> Tensor:
        hidden = self.pair.vision_model.embeddings(pixels)
        for layer in self.pair.vision_model.encoder.layers[:-1]:
            hidden = layer(hidden, attention_mask=None)
        return self.trained["captioner"](hidden)  # type: ignore[no-any-return]

    def _logits(self, pixels: Tensor, ids: Tensor) -> Tensor:
        """(B, B): pictures against captions."""
        image = normalize(self.pair.vision_model(pixel_values=pixels).pooler_output, dim=-1)
        text = normalize(self.pair.text_model(input_ids=ids).pooler_output, dim=-1)
        return image @ text.t() * self.pair.logit_scale.exp() + self.pair.logit_bias

    def _batch(self, rng: random.Random, num_groups: int, split: Split) -> tuple[Tensor, Tensor]:
        scenes: list[Scene] = []
        seeds: list[int] = []
        for _ in range(num_groups):
            first, seed = sample_scene(rng, split), rng.getrandbits(31)
            group = [first] + [edit(first, rng, split).result for _ in range(self.config.group_size - 1)]
            scenes += group
            seeds += [seed] * len(group)
        pictures = [Image.fromarray(render(scene, seed)) for scene, seed in zip(scenes, seeds, strict=True)]
        ids = torch.full((len(scenes), self.config.max_caption_tokens), self.pad_id)
        for index, scene in enumerate(scenes):
            tokens = self.codec.encode(" " + caption(scene, rng))[: self.config.max_caption_tokens]
            ids[index, : len(tokens)] = torch.tensor(tokens)
        return self.processor(pictures), ids

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Share of held-out pictures whose own caption scores highest, in the whole batch and within the group."""
        pixels, ids = self._batch(random.Random("encoder/evaluate"), NUM_EVAL_GROUPS, "held_out")
        logits = self._logits(pixels, ids)
        own = torch.arange(len(logits))
        size = self.config.group_size
        in_group = torch.stack(
            [logits[g * size : (g + 1) * size, g * size : (g + 1) * size] for g in range(NUM_EVAL_GROUPS)]
        )
        figures = {
            "picked": (logits.argmax(1) == own).float().mean().item(),
            "picked_in_group": (in_group.argmax(2) == torch.arange(size)).float().mean().item(),
        }
        if self.config.num_crowds:
            rng = random.Random("encoder/evaluate/captions")
            _, words_right = self._captioning([crowd(rng, "held_out", 0.0) for _ in range(NUM_EVAL_GROUPS)])
            figures["words_right"] = words_right.item()
        return figures

    def write(self, folder: Path) -> None:
        """The vision tower alone, as a transformers SiglipVisionModel folder."""
        vision = SiglipVisionModel(self.pair.vision_model.config)
        vision.load_state_dict(self.pair.vision_model.state_dict())
        vision.save_pretrained(str(folder))


def sincos_positions(side: int, width: int) -> Tensor:
    """(side * side, width): sines and cosines of row and column, from which learned positions start out distinct."""
    rates = torch.exp(-np.log(100.0) * torch.arange(width // 4) / (width // 4))
    angles = torch.arange(side)[:, None] * rates
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    return torch.cat([waves.repeat_interleave(side, 0), waves.repeat(side, 1)], dim=1)


def siglip_config(config: EncoderStage, vocab_size: int) -> SiglipConfig:
    """The transformers config of the recipe's pair; both towers end in the vision tower's width."""
    vision = {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
    }
    text = {
        "vocab_size": vocab_size,
        "hidden_size": config.text_hidden_size,
        "intermediate_size": 3 * config.text_hidden_size,
        "num_hidden_layers": config.text_layers,
        "num_attention_heads": 4,
        "max_position_embeddings": config.max_caption_tokens,
        "projection_size": config.hidden_size,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    return SiglipConfig(text_config=text, vision_config=vision)
