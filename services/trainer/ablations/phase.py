"""One phase of a row: the single stage's objective, from a pre-trained encoder and LLM or from the phase before."""

import random
from pathlib import Path
from typing import Literal

import torch

from services.trainer.ablations.table import PARTS, Part
from services.trainer.config import Group, Recipe
from services.trainer.objectives.multimodal import MultimodalObjective
from services.trainer.objectives.understanding import Batch, UnderstandingObjective
from triptych.models.decoder_stage import DecoderStage
from triptych.models.encoder_stage import EncoderStage
from triptych.models.llm_stage import LlmStage

NUM_HELD_OUT = 128
ROOMY = 128  # tokens: nothing is too long, whatever the template, so that all rows have the same conversations
PREVIOUS = "previous"  # what an input is called that an earlier phase made


class PhaseObjective(MultimodalObjective):
    """GenLLaVA's stage, from what the table's rows start from, or from what the phase before made.

    `trained` says which parts learn in this phase; the others stay as they are. For `align_only_steps` the head learns
    from its regression onto text conditioning alone.
    """

    name = "ablation"

    def __init__(
        self, recipe: Recipe, inputs: dict[str, Path], trained: tuple[Part, ...] = PARTS, align_only_steps: int = 0
    ) -> None:
        self.align_only_steps = align_only_steps
        super().__init__(recipe, inputs)
        for name, part in self.trained.items():
            if name not in trained:
                part.requires_grad_(False)

    def load_stages(self) -> tuple[EncoderStage, LlmStage]:
        if PREVIOUS not in self.inputs and "understanding" not in self.inputs:
            return UnderstandingObjective.load_stages(self)
        folder = self.inputs.get(PREVIOUS) or self.inputs["understanding"]
        return EncoderStage.load(folder / "encoder"), LlmStage.load(folder / "llm", self.template)

    def load_decoder(self) -> DecoderStage:
        stage = super().load_decoder()
        if PREVIOUS in self.inputs:
            head = DecoderStage.load(self.inputs[PREVIOUS] / "decoder").head
            stage.head.load_state_dict(head.state_dict())
        return stage

    def generation_weight(self, step: int) -> float:
        return 0.0 if step < self.align_only_steps else super().generation_weight(step)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Held-out losses: of answers, and of denoising pictures to draw and edited ones. They tell rows apart long
        before anything is drawn right; conversations, noise and timesteps are the same for all rows.

        Answers and drawings themselves are judged once, when the row is done.
        """
        batch = self._held_out("ask")
        figures = {"answer_loss": self.token_scores(batch, self.hidden_plain(batch)).losses.mean().item()}
        for kind in ("draw", "edit"):
            batch = self._held_out(kind)
            conditioning = self.decoder_stage.head(*self.img_states(batch, self.hidden_plain(batch)))
            noise = random.Random(f"ablation/evaluate/{kind}/noise")
            figures[f"{kind}_loss"] = self._denoising_loss(conditioning, batch.targets, noise).item()
        return figures

    def _held_out(self, kind: Literal["ask", "draw", "edit"]) -> Batch:
        group = Group(kind=kind, batch_size=NUM_HELD_OUT, max_tokens=ROOMY)
        return self.batch(group, random.Random(f"ablation/evaluate/{kind}"), "held_out")
