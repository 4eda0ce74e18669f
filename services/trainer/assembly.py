"""The model as it stands after some stages of tuning: each part from the last stage that wrote it, or from the base."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from triptych.card import read_card
from triptych.models import HEADS, PROJECTORS
from triptych.models.base import read_class
from triptych.models.decoder_stage import DecoderStage
from triptych.models.encoder_stage import EncoderStage
from triptych.models.llm_stage import LlmStage
from triptych.prompts import PromptTemplate

PROJECTOR, LLM, HEAD = "projector", "llm", "head"


@dataclass(frozen=True)
class Assembly:
    """`outs` are what the stages wrote, in their order: folders with any of `projector/ llm/ head/`."""

    base: Path
    outs: tuple[Path, ...] = ()

    @property
    def has_decoder(self) -> bool:
        """A checkpoint that only understands has none."""
        return (self.base / "decoder").is_dir()

    def encoder(self) -> EncoderStage:
        """Raises CheckpointError naming what is missing or wrong, as all of these."""
        stage = EncoderStage.load(self.base / "encoder")
        if folder := _last(self.outs, PROJECTOR):
            stage.projector = read_class(folder / "config.json", "type", PROJECTORS).load(folder)
        return stage.eval().requires_grad_(False)

    def llm(self) -> LlmStage:
        """Its weights as they are stored: so the mapped file is its memory, whatever the number of ranks."""
        folder = _last(self.outs, LLM)
        if not folder:
            return LlmStage.load(self.base / "llm", dtype=None)
        template = PromptTemplate.from_dict(read_card(self.base / "llm").facts["template"])
        return LlmStage.load(folder, template, dtype=None)

    def decoder(self) -> DecoderStage | None:
        if not self.has_decoder:
            return None
        stage = DecoderStage.load(self.base / "decoder")
        if folder := _last(self.outs, HEAD):
            stage.head = read_class(folder / "config.json", "type", HEADS).load(folder)
        return stage.eval().requires_grad_(False)


def _last(outs: Iterable[Path], part: str) -> Path | None:
    return next((out / part for out in reversed(tuple(outs)) if (out / part).is_dir()), None)
