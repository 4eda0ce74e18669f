"""The LLM before it sees: a language model that knows the world's talk, pictures told in words."""

import random
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import MistralConfig

from services.trainer.config import LlmStage, Recipe
from services.trainer.data.samples import make_sample, told_in_words
from services.trainer.data.tokens import IGNORE, PAD, Row, RowMaker, pad_rows
from services.trainer.objectives.base import Objective
from triptych.errors import InvalidArgument
from triptych.models.llms.mistral import MistralLlm
from triptych.models.text import TextCodec
from triptych.prompts import PromptTemplate

NUM_EVAL = 128
MAX_IN_VAIN = 200  # rows in which nothing fits, for each that is wanted


class LanguageObjective(Objective):
    """Next-token loss on the assistant's side of conversations, as GenLLaVA's LLM comes pre-trained."""

    name = "llm"
    needs = ("tokenizer",)

    def __init__(self, recipe: Recipe, inputs: dict[str, Path]) -> None:
        super().__init__(recipe, inputs)
        self.template = PromptTemplate(**recipe.template.model_dump())
        codec = TextCodec.load(inputs["tokenizer"])
        self.rows = RowMaker(codec, num_image_tokens=0)
        self.pad_id = codec.special_id(PAD)
        torch.manual_seed(recipe.seed)
        self.llm = MistralLlm(llm_config(recipe.llm, codec, self.template))
        self.llm.causal_lm.set_attn_implementation("eager")  # CPU flash attention is slow backwards
        self.uncompile()

    @property
    def config(self) -> LlmStage:
        return self.recipe.llm

    @property
    def module(self) -> nn.Module:
        return self.llm

    def compile(self) -> None:
        self._forward = torch.compile(self._loss, dynamic=False)

    def uncompile(self) -> None:
        self._forward = self._loss

    def backward(self, step: int) -> dict[str, Tensor]:
        ids, labels = self._batch(random.Random(f"llm/{self.recipe.seed}/{step}"))
        with torch.autocast("cpu", torch.bfloat16):
            loss, _ = self._forward(ids, labels)
        loss.backward()
        return {"loss": loss}

    def _loss(self, ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.llm(self.llm.embed(ids))[:, :-1]
        targets = labels[:, 1:]
        logits = self.llm.logits(hidden).float()
        right = (logits.argmax(-1) == targets) | (targets == IGNORE)
        return cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE), right

    def _batch(self, rng: random.Random) -> tuple[Tensor, Tensor]:
        rows: list[Row] = []
        in_vain = 0
        while len(rows) < self.config.batch_size:
            row = self._pack(rng)
            if row.ids:
                rows.append(row)
            elif (in_vain := in_vain + 1) > MAX_IN_VAIN * self.config.batch_size:
                raise InvalidArgument(f"llm: hardly any conversation fits max_tokens {self.config.max_tokens}")
        return pad_rows(rows, self.config.max_tokens, self.pad_id)

    def _pack(self, rng: random.Random) -> Row:
        """Whole conversations, one after another, as many as fit in a row."""
        ids: list[int] = []
        labels: list[int] = []
        while True:
            kind, turns = rng.choice((("ask", 3), ("draw", 1), ("edit", 1), ("mixed", 3)))
            sample = make_sample(kind, rng, "train", turns, auto_task_share=0.5)
            row = self.rows.row(told_in_words(sample, self.template))
            if len(ids) + len(row.ids) > self.config.max_tokens:
                return Row(ids, labels)
            ids, labels = ids + row.ids, labels + row.labels

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Share of held-out answers whose every token is the most likely one, by kind of turn."""
        figures: dict[str, float] = {}
        for kind in ("ask", "draw", "edit"):
            rng = random.Random(f"llm/evaluate/{kind}")
            samples = [make_sample(kind, rng, "held_out", 1, 0.5) for _ in range(NUM_EVAL)]
            rows = [self.rows.row(told_in_words(s, self.template)) for s in samples]
            ids, labels = pad_rows(rows, max(len(row.ids) for row in rows), self.pad_id)
            _, right = self._loss(ids, labels)
            figures[f"{kind}_right"] = right.all(1).float().mean().item()
        return figures

    def write(self, folder: Path) -> None:
        self.llm.save(folder)


def llm_config(config: LlmStage, codec: TextCodec, template: PromptTemplate) -> MistralConfig:
    """The transformers config of the recipe's LLM."""
    return MistralConfig(
        vocab_size=len(codec.tokenizer),
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_key_value_heads,
        max_position_embeddings=config.max_model_len,
        rms_norm_eps=1e-5,
        sliding_window=None,
        bos_token_id=codec.special_id(template.bos_token),
        eos_token_id=codec.special_id(template.eos_token),
        pad_token_id=codec.special_id(PAD),
    )
