"""One phase of a row: the single stage's objective, from a pre-trained encoder and LLM or from the phase before."""

from pathlib import Path

from services.trainer.ablations.table import PARTS, Part
from services.trainer.config import Recipe
from services.trainer.objectives.multimodal import MultimodalObjective
from services.trainer.objectives.understanding import UnderstandingObjective
from triptych.models.decoder_stage import DecoderStage
from triptych.models.encoder_stage import EncoderStage
from triptych.models.llm_stage import LlmStage

PREVIOUS = "previous"  # what an input is called that an earlier phase made


class PhaseObjective(MultimodalObjective):
    """GenLLaVA's stage as the paper has it: projector and head begin at random, encoder and LLM pre-trained.

    `trained` says which parts learn in this phase; the others stay as they are.
    """

    name = "ablation"

    def __init__(self, recipe: Recipe, inputs: dict[str, Path], trained: tuple[Part, ...] = PARTS) -> None:
        super().__init__(recipe, inputs)
        for name, part in self.trained.items():
            if name not in trained:
                part.requires_grad_(False)

    def load_stages(self) -> tuple[EncoderStage, LlmStage]:
        if PREVIOUS not in self.inputs:
            return UnderstandingObjective.load_stages(self)
        folder = self.inputs[PREVIOUS]
        return EncoderStage.load(folder / "encoder"), LlmStage.load(folder / "llm", self.template)

    def _decoder_stage(self) -> DecoderStage:
        stage = super()._decoder_stage()
        if PREVIOUS in self.inputs:
            head = DecoderStage.load(self.inputs[PREVIOUS] / "decoder").head
            stage.head.load_state_dict(head.state_dict())
        return stage

    def evaluate(self) -> dict[str, float]:
        """Held-out answers alone: drawings are judged once, when the row is done."""
        return UnderstandingObjective.evaluate(self)
