"""Writing a whole checkpoint: three component folders, each with card and golden probes, complete or not at all."""

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

import torch
from safetensors.numpy import save_file

from triptych.card import Card, Port, Probes, write_card
from triptych.errors import InvalidArgument
from triptych.models.decoder_stage import DecoderStage
from triptych.models.encoder_stage import EncoderStage
from triptych.models.llm_stage import LlmStage
from triptych.models.probe_values import Array
from triptych.models.probes import PROBES_FILE, make_decoder_probes, make_encoder_probes, make_llm_probes

COSINE_MIN: Final = 0.999  # bf16 stays above, swapped or changed weights fall below


@dataclass(frozen=True)
class Spaces:
    """The spaces at which the components meet: the LLM's input, and the hidden states of its [IMG] tokens.

    Retrain one side against a frozen partner and its space stays: pass the partner's on. Train both and it changes.
    """

    llm_input: str
    img: str

    @classmethod
    def of_run(cls, name: str, run_id: str) -> Self:
        """New spaces for a run that trains all three; the same run has the same ones."""
        names = (f"{name}/{end}@{_hex(f'{run_id}/{end}')}" for end in ("llm-input", "img"))
        return cls(*names)


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What callers get who do not ask for anything else, and how far they may ask."""

    num_inference_steps: int = 25
    guidance_scale: float = 3.0
    max_num_inference_steps: int = 200
    max_tokens: int = 256
    max_pixels: int = 16 * 2**20


def write_checkpoint(
    folder: Path,
    encoder: EncoderStage,
    llm: LlmStage,
    decoder: DecoderStage,
    *,
    name: str,
    version: str,
    spaces: Spaces,
    made_by: dict[str, Any],
    dtype: torch.dtype = torch.bfloat16,
    defaults: Defaults | None = None,
) -> dict[str, Card]:
    """Writes `system.json` and `encoder/ llm/ decoder/`, weights as `dtype`; returns the cards by kind.

    `made_by` is JSON: recipe, its digest, seed. Probes are computed, in float32, from the folders as they were written.
    A `folder` that exists is replaced in one move at the end; a crash before leaves it whole.
    Raises InvalidArgument when the stages do not fit together.
    """
    _check_fit(encoder, llm, decoder)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    writer = _Writer(partial, name, version, spaces, made_by, dtype, defaults or Defaults())
    with torch.no_grad():
        cards = (writer.encoder(encoder), writer.llm(llm), writer.decoder(decoder, llm))
    digests = {card.kind: card.digest for card in cards}
    system = {"name": name, "version": version, "made_by": made_by, "spaces": asdict(spaces), "digests": digests}
    (partial / "system.json").write_text(json.dumps(system, indent=2) + "\n")
    _replace(folder, partial)
    return {card.kind: card for card in cards}


@dataclass(frozen=True)
class _Writer:
    """One method per component: weights, then a reload, its probes, and last the card with the digest over it all."""

    folder: Path
    name: str
    version: str
    spaces: Spaces
    made_by: dict[str, Any]
    dtype: torch.dtype
    defaults: Defaults

    def encoder(self, stage: EncoderStage) -> Card:
        folder = self._start("encoder")
        stage.save(folder, self.dtype)
        loaded = EncoderStage.load(folder)
        size = loaded.processor.size
        num_tokens, hidden_size = loaded(torch.zeros(1, 3, size, size)).shape[1:]
        port = Port("embeddings", "embeddings", self.spaces.llm_input, "f32", (num_tokens, hidden_size))
        return self._finish(
            folder,
            make_encoder_probes(loaded),
            inputs=(Port("image", "image"),),
            outputs=(port,),
            facts={"num_image_tokens": num_tokens, "max_pixels": self.defaults.max_pixels},
        )

    def llm(self, stage: LlmStage) -> Card:
        folder = self._start("llm")
        stage.save(folder, self.dtype)
        hidden_size, max_model_len = llm_sizes(stage)
        num_img_tokens = len(stage.img_ids)
        ends: dict[str, Any] = {
            "inputs": (Port("embeddings", "embeddings", self.spaces.llm_input, "f32", (-1, hidden_size)),),
            "outputs": (Port("hidden_states", "hidden_states", self.spaces.img, "f32", (num_img_tokens, hidden_size)),),
            "facts": {
                "template": stage.template.to_dict(),
                "special_tokens": sorted(stage.codec.special_tokens),
                "num_img_tokens": num_img_tokens,
                "hidden_size": hidden_size,
                "max_model_len": max_model_len,
                "default_max_tokens": self.defaults.max_tokens,
                "handover": "once",
            },
        }
        write_card(folder, Card("llm", self.name, self.version, **ends))  # `load` reads the template there
        return self._finish(folder, make_llm_probes(LlmStage.load(folder)), **ends)

    def decoder(self, stage: DecoderStage, llm: LlmStage) -> Card:
        folder = self._start("decoder")
        stage.save(folder, self.dtype)
        shape = (len(llm.img_ids), llm_sizes(llm)[0])
        return self._finish(
            folder,
            make_decoder_probes(DecoderStage.load(folder), *shape),
            inputs=(Port("hidden_states", "hidden_states", self.spaces.img, "f32", shape),),
            outputs=(Port("image", "image"),),
            facts={
                "handover": "once",
                "width": stage.decoder.image_size,
                "height": stage.decoder.image_size,
                "default_num_inference_steps": self.defaults.num_inference_steps,
                "default_guidance_scale": self.defaults.guidance_scale,
                "max_num_inference_steps": self.defaults.max_num_inference_steps,
            },
        )

    def _start(self, kind: str) -> Path:
        folder = self.folder / kind
        folder.mkdir(parents=True)
        return folder

    def _finish(self, folder: Path, probes: dict[str, Array], **ends: Any) -> Card:
        save_file(probes, folder / PROBES_FILE)
        bar = Probes(PROBES_FILE, COSINE_MIN)
        card = Card(folder.name, self.name, self.version, made_by=self.made_by, probes=bar, **ends)
        return write_card(folder, card)


def llm_sizes(stage: LlmStage) -> tuple[int, int]:
    """hidden_size and max_model_len."""
    return int(stage.llm.hidden_size), int(stage.llm.max_model_len)


def _check_fit(encoder: EncoderStage, llm: LlmStage, decoder: DecoderStage) -> None:
    hidden_size, _ = llm_sizes(llm)
    projector: Any = encoder.projector
    head: Any = decoder.head
    for name, found in (
        ("the projector's hidden_size", projector.config.hidden_size),
        ("the head's input_size", head.config.input_size),
    ):
        if found != hidden_size:
            raise InvalidArgument(f"{name} is {found}, must be the LLM's hidden_size {hidden_size}")


def _replace(folder: Path, partial: Path) -> None:
    previous = folder.with_name(folder.name + ".previous")
    shutil.rmtree(previous, ignore_errors=True)
    if folder.exists():
        folder.rename(previous)
    partial.rename(folder)
    shutil.rmtree(previous, ignore_errors=True)


def _hex(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
