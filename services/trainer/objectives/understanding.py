"""Learning to see: the language model reads projected patches and answers about them."""

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from services.trainer.config import Group, Recipe, UnderstandingStage
from services.trainer.data.blocks.world import Scene, Split
from services.trainer.data.samples import Sample, make_sample
from services.trainer.data.tokens import IGNORE, PAD, Row, RowMaker, pad_rows
from services.trainer.objectives.base import Objective
from triptych.errors import InvalidArgument
from triptych.models.encoder_stage import EncoderStage
from triptych.models.encoders.siglip import SiglipEncoder
from triptych.models.llm_stage import LlmStage
from triptych.models.llms.mistral import MistralLlm
from triptych.models.processors import ImageProcessor
from triptych.models.projectors.mlp import MlpProjector
from triptych.models.text import TextCodec
from triptych.prompts import PromptTemplate

NUM_EVAL = 64
NUM_PATCHES = 36  # of a picture, in evaluation's rows: an encoder with more makes them longer
PICTURES_A_CALL = 24
MAX_IN_VAIN = 200  # conversations that do not fit, for each that is wanted


@dataclass(frozen=True)
class Batch:
    """Rows of one group."""

    ids: Tensor  # (B, T), <image> at every patch position
    labels: Tensor  # (B, T)
    seen: list[Image.Image]  # the pictures that stand at those positions, row by row
    targets: list[tuple[Scene, int]]  # scene and render seed of every drawn picture, row by row


@dataclass(frozen=True)
class TokenScores:
    """Of each labelled token: its loss, whether it was the most likely one, its row, and whether it was no choice."""

    losses: Tensor
    right: Tensor
    row: Tensor
    forced: Tensor


class UnderstandingObjective(Objective):
    """Next-token loss on the answers (L_und alone), from a pre-trained encoder and a pre-trained LLM."""

    name = "understanding"
    needs: tuple[str, ...] = ("tokenizer", "encoder", "llm")

    def __init__(self, recipe: Recipe, inputs: dict[str, Path]) -> None:
        super().__init__(recipe, inputs)
        self.template = PromptTemplate(**recipe.template.model_dump())
        torch.manual_seed(recipe.seed)
        self.encoder_stage, self.llm_stage = self.load_stages()
        for model in (self.encoder_stage.encoder, self.llm_stage.llm):
            use_eager_attention(model)
        self.rows = RowMaker(self.llm_stage.codec, self.encoder_stage.encoder.num_patches)
        self.pad_id = self.llm_stage.codec.special_id(PAD)
        self.encoder_stage.requires_grad_(True)
        self.encoder_stage.encoder.requires_grad_(self.config.train_encoder)
        self.llm_stage.requires_grad_(True)
        self.trained = nn.ModuleDict(
            {
                "encoder": self.encoder_stage.encoder,
                "projector": self.encoder_stage.projector,
                "llm": self.llm_stage.llm,
            }
        )
        self.uncompile()

    def load_stages(self) -> tuple[EncoderStage, LlmStage]:
        """The pre-trained encoder with a fresh projector, and the pre-trained LLM."""
        encoder = SiglipEncoder.load(self.inputs["encoder"])
        config = MlpProjector.Config(input_size=encoder.embed_dim, hidden_size=self.recipe.llm.hidden_size)
        processor = ImageProcessor(size=self.recipe.encoder.image_size)
        codec = TextCodec.load(self.inputs["tokenizer"])
        llm = LlmStage(MistralLlm.load(self.inputs["llm"]), codec, self.template)
        return EncoderStage(encoder, MlpProjector(config), processor), llm

    def compile(self) -> None:
        self.see = torch.compile(self.encoder_stage, dynamic=False)
        self.think = torch.compile(self.llm_stage, dynamic=False)

    def uncompile(self) -> None:
        self.see, self.think = self.encoder_stage, self.llm_stage

    @property
    def config(self) -> UnderstandingStage:
        return self.recipe.understanding

    @property
    def module(self) -> nn.Module:
        return self.trained

    def lr_scales(self) -> dict[str, float]:
        """Learning rates of the parts, relative to the stage's; 1 for those not named."""
        return {"encoder": self.config.encoder_lr_scale}

    def parameter_groups(self) -> list[dict[str, object]]:
        groups: list[dict[str, object]] = []
        for name, part in self.trained.items():
            scale = self.lr_scales().get(name, 1.0)
            by_muon: dict[bool, list[nn.Parameter]] = {False: [], True: []}
            for key, parameter in part.named_parameters():
                if parameter.requires_grad:
                    by_muon[self.config.muon_lr_scale > 0 and _is_inner_matrix(key, parameter)].append(parameter)
            groups.append({"params": by_muon[False], "lr_scale": scale})
            groups.append({"params": by_muon[True], "lr_scale": scale * self.config.muon_lr_scale, "muon": True})
        return [group for group in groups if group["params"]]

    def batch(self, group: Group, rng: random.Random, split: Split) -> Batch:
        """Conversations of one kind that fit the row; one that does not is drawn again.

        Raises InvalidArgument when hardly any fits.
        """
        samples: list[Sample] = []
        rows: list[Row] = []
        in_vain = 0
        while len(rows) < group.batch_size:
            sample = make_sample(group.kind, rng, split, group.num_turns, self.config.auto_task_share)
            row = self.rows.row(sample.segments(self.template))
            if len(row.ids) <= group.max_tokens:
                samples.append(sample)
                rows.append(row)
            elif (in_vain := in_vain + 1) > MAX_IN_VAIN * group.batch_size:
                raise InvalidArgument(f"{self.name}: hardly any {group.kind!r} fits max_tokens {group.max_tokens}")
        ids, labels = pad_rows(rows, group.max_tokens, self.pad_id)
        seen: list[Image.Image] = []
        targets: list[tuple[Scene, int]] = []
        for sample in samples:
            pictures = sample.pictures()
            seen += [Image.fromarray(pictures[i]) for i in sample.shown(self.template)]
            targets += sample.targets()
        return Batch(ids, labels, seen, targets)

    def hidden(self, batch: Batch) -> Tensor:
        """Hidden states (B, T, D) of a batch, pictures in their slots."""
        embeds = self.llm_stage.llm.embed(batch.ids)
        if batch.seen:
            pixels = self.encoder_stage.preprocess(batch.seen)
            slots = batch.ids == self.rows.image_id
            embeds = embeds.masked_scatter(slots[..., None], self._look(pixels).to(embeds.dtype))
        return self.think(embeds)  # type: ignore[no-any-return]

    def _look(self, pixels: Tensor) -> Tensor:
        """Embeddings, in calls of one size so that compiled code is reused."""
        short = -len(pixels) % PICTURES_A_CALL
        padded = torch.cat([pixels, pixels[:1].expand(short, -1, -1, -1)])
        return torch.cat([self.see(part) for part in padded.split(PICTURES_A_CALL)])[: len(pixels)]

    def backward(self, step: int) -> dict[str, Tensor]:
        rng = random.Random(f"{self.name}/{self.recipe.seed}/{step}")
        batches = [self.batch(group, rng, "train") for group in self.config.groups]
        with torch.autocast("cpu", torch.bfloat16):
            losses, figures = self.losses(batches, step, rng)
        losses.backward()
        return {"loss": losses, **figures}

    def losses(self, batches: list[Batch], step: int, rng: random.Random) -> tuple[Tensor, dict[str, Tensor]]:
        """The step's loss, and what it is made of."""
        return self.understanding(batches, [self.hidden(batch) for batch in batches])

    def understanding(self, batches: list[Batch], hiddens: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss over the step's labelled tokens, and the mean of each kind of conversation.

        [IMG] and [EOI] follow [SOI] by force wherever the model runs. They have a mean of their own, added to that of
        the chosen tokens: sixteen sure ones a picture would drown the answers.
        """
        scores = [self.token_scores(batch, hidden) for batch, hidden in zip(batches, hiddens, strict=True)]
        by_kind: dict[str, list[Tensor]] = {}
        for group, score in zip(self.config.groups, scores, strict=True):
            by_kind.setdefault(group.kind, []).append(score.losses[~score.forced])
        means = {f"understanding_{kind}": torch.cat(values).mean() for kind, values in by_kind.items()}
        losses, forced = torch.cat([s.losses for s in scores]), torch.cat([s.forced for s in scores])
        loss = losses[~forced].mean()
        return loss + losses[forced].mean() if forced.any() else loss, means

    def token_scores(self, batch: Batch, hidden: Tensor) -> TokenScores:
        targets = batch.labels[:, 1:]
        mask = targets != IGNORE
        wanted = targets[mask]
        logits = self.llm_stage.logits(hidden[:, :-1][mask])
        forced = torch.isin(wanted, torch.tensor(self.llm_stage.image_ids[1:]))
        losses = cross_entropy(logits, wanted, reduction="none")
        return TokenScores(losses, logits.argmax(-1) == wanted, mask.nonzero()[:, 0], forced)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Share of held-out answers whose every token is the most likely one."""
        ask = Group(kind="ask", batch_size=4 * NUM_EVAL, max_tokens=88 + self.extra_patches)
        batch = self.batch(ask, random.Random("understanding/evaluate"), "held_out")
        scores = self.token_scores(batch, self.hidden_plain(batch))
        return {"answers_right": 1 - len(scores.row[~scores.right].unique()) / ask.batch_size}

    @property
    def extra_patches(self) -> int:
        return max(0, self.encoder_stage.encoder.num_patches - NUM_PATCHES)

    def hidden_plain(self, batch: Batch) -> Tensor:
        """`hidden` without compiled code: evaluation's shapes are seen too seldom to compile for."""
        see, think, self.see, self.think = self.see, self.think, self.encoder_stage, self.llm_stage
        try:
            return self.hidden(batch)
        finally:
            self.see, self.think = see, think

    def write(self, folder: Path) -> None:
        """Encoder and LLM stages, as the services load them but for their cards, which publishing writes."""
        self.encoder_stage.save(folder / "encoder")
        self.llm_stage.save(folder / "llm")


def _is_inner_matrix(name: str, parameter: nn.Parameter) -> bool:
    """What Muon is for: weights between hidden states, neither embeddings nor the LM head."""
    return parameter.ndim == 2 and "embed" not in name and "lm_head" not in name


def use_eager_attention(module: nn.Module) -> None:
    """For every transformers model inside: CPU flash attention is several times slower backwards."""
    for part in module.modules():
        if isinstance(part, PreTrainedModel):
            part.set_attn_implementation("eager")
