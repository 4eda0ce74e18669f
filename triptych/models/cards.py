"""The cards of a checkpoint: what each component is and holds to, its golden probes, and the spaces where they meet."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

import numpy as np
import torch
from safetensors.numpy import save_file

from triptych.card import Card, Port, Probes, write_card
from triptych.errors import CheckpointError
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


@dataclass(frozen=True)
class CardWriter:
    """One method per component: from its folder, complete but for these, and the stage that was opened from it, the
    probes and last the card with the digest over it all. Raises CheckpointError when a stage gives no finite numbers.
    """

    name: str
    version: str
    spaces: Spaces
    made_by: dict[str, Any]
    defaults: Defaults

    @torch.no_grad()
    def encoder(self, folder: Path, stage: EncoderStage) -> Card:
        size = stage.processor.size
        num_tokens, hidden_size = stage(torch.zeros(1, 3, size, size)).shape[1:]
        port = Port("embeddings", "embeddings", self.spaces.llm_input, "f32", (num_tokens, hidden_size))
        return self._finish(
            folder,
            make_encoder_probes(stage),
            inputs=(Port("image", "image"),),
            outputs=(port,),
            facts={"num_image_tokens": num_tokens, "max_pixels": self.defaults.max_pixels},
        )

    @torch.no_grad()
    def llm(self, folder: Path, stage: LlmStage, handover: Literal["once", "none"] = "once") -> Card:
        """`handover` none: its [IMG] tokens are there, but nobody has learned to draw from them yet."""
        hidden_size, max_model_len = llm_sizes(stage)
        num_img_tokens = len(stage.img_ids)
        return self._finish(
            folder,
            make_llm_probes(stage),
            inputs=(Port("embeddings", "embeddings", self.spaces.llm_input, "f32", (-1, hidden_size)),),
            outputs=(Port("hidden_states", "hidden_states", self.spaces.img, "f32", (num_img_tokens, hidden_size)),),
            facts={
                "template": stage.template.to_dict(),
                "special_tokens": sorted(stage.codec.special_tokens),
                "num_img_tokens": num_img_tokens,
                "hidden_size": hidden_size,
                "max_model_len": max_model_len,
                "default_max_tokens": self.defaults.max_tokens,
                "handover": handover,
            },
        )

    @torch.no_grad()
    def decoder(self, folder: Path, stage: DecoderStage, llm: LlmStage) -> Card:
        shape = (len(llm.img_ids), llm_sizes(llm)[0])
        return self._finish(
            folder,
            make_decoder_probes(stage, *shape),
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

    def system(self, folder: Path, cards: Iterable[Card]) -> None:
        """Writes `system.json`, which says what belongs together."""
        digests = {card.kind: card.digest for card in cards}
        made = {"name": self.name, "version": self.version, "made_by": self.made_by}
        system = {**made, "spaces": asdict(self.spaces), "digests": digests}
        (folder / "system.json").write_text(json.dumps(system, indent=2) + "\n")

    def _finish(self, folder: Path, probes: dict[str, Array], **ends: Any) -> Card:
        if broken := sorted(name for name, values in probes.items() if not np.isfinite(values).all()):
            raise CheckpointError(f"{folder}: its weights give no finite numbers for {', '.join(broken)}")
        save_file(probes, folder / PROBES_FILE)
        bar = Probes(PROBES_FILE, COSINE_MIN)
        card = Card(folder.name, self.name, self.version, made_by=self.made_by, probes=bar, **ends)
        return write_card(folder, card)


def llm_sizes(stage: LlmStage) -> tuple[int, int]:
    """hidden_size and max_model_len."""
    return int(stage.llm.hidden_size), int(stage.llm.max_model_len)


def _hex(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
