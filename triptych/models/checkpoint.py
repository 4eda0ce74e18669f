"""Writing a whole checkpoint: three component folders, each with card and golden probes, complete or not at all."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from triptych.card import Card
from triptych.errors import InvalidArgument
from triptych.models.cards import CardWriter, Defaults, Spaces, llm_sizes
from triptych.models.decoder_stage import DecoderStage
from triptych.models.encoder_stage import EncoderStage
from triptych.models.llm_stage import LlmStage


def write_checkpoint(
    folder: Path,
    encoder: EncoderStage,
    llm: LlmStage,
    decoder: DecoderStage | None,
    *,
    name: str,
    version: str,
    spaces: Spaces,
    made_by: dict[str, Any],
    dtype: torch.dtype = torch.bfloat16,
    defaults: Defaults | None = None,
) -> dict[str, Card]:
    """Writes `system.json` and `encoder/ llm/ decoder/`, weights as `dtype`; returns the cards by kind. Without a
    decoder, the LLM's card says that it does not draw.

    `made_by` is JSON: recipe, its digest, seed. Probes are computed, in float32, from the folders as they were written.
    A `folder` that exists is replaced in one move at the end; a crash before leaves it whole.
    Raises InvalidArgument when the stages do not fit together.
    """
    _check_fit(encoder, llm, decoder)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    card_writer = CardWriter(name, version, spaces, made_by, defaults or Defaults())
    writer = _Writer(partial, card_writer, dtype)
    with torch.no_grad():
        cards = [writer.encoder(encoder), writer.llm(llm, "once" if decoder else "none")]
        if decoder:
            cards.append(writer.decoder(decoder, llm))
    card_writer.system(partial, cards)
    put_in_place(partial, folder)
    return {card.kind: card for card in cards}


@dataclass(frozen=True)
class _Writer:
    """One method per component: weights, then a reload, and from that its card."""

    folder: Path
    cards: CardWriter
    dtype: torch.dtype

    def encoder(self, stage: EncoderStage) -> Card:
        folder = self._start("encoder")
        stage.save(folder, self.dtype)
        return self.cards.encoder(folder, EncoderStage.load(folder))

    def llm(self, stage: LlmStage, handover: Literal["once", "none"]) -> Card:
        folder = self._start("llm")
        stage.save(folder, self.dtype)
        return self.cards.llm(folder, LlmStage.load(folder, stage.template), handover)

    def decoder(self, stage: DecoderStage, llm: LlmStage) -> Card:
        folder = self._start("decoder")
        stage.save(folder, self.dtype)
        return self.cards.decoder(folder, DecoderStage.load(folder), llm)

    def _start(self, kind: str) -> Path:
        folder = self.folder / kind
        folder.mkdir(parents=True)
        return folder


def _check_fit(encoder: EncoderStage, llm: LlmStage, decoder: DecoderStage | None) -> None:
    hidden_size, _ = llm_sizes(llm)
    projector: Any = encoder.projector
    sizes = {"the projector's hidden_size": projector.config.hidden_size}
    if decoder:
        head: Any = decoder.head
        sizes["the head's input_size"] = head.config.input_size
    for name, found in sizes.items():
        if found != hidden_size:
            raise InvalidArgument(f"{name} is {found}, must be the LLM's hidden_size {hidden_size}")


def put_in_place(partial: Path, folder: Path) -> None:
    """Moves a complete checkpoint to where it belongs; one that is there makes room only then."""
    previous = folder.with_name(f".{folder.name}.previous")  # hidden: what has a plain name may be someone's
    shutil.rmtree(previous, ignore_errors=True)
    if folder.exists():
        folder.rename(previous)
    partial.rename(folder)
    shutil.rmtree(previous, ignore_errors=True)
