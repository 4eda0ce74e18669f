"""The tensors of the decoder service: weights, and each picture's denoising. Runs on the worker thread."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from services.decoder.events import Event, Picture, Preview, Progress
from services.decoder.params import DecodeParams
from triptych.card import Card
from triptych.models.decoder_stage import DecoderStage, Denoising
from triptych.models.placement import DTYPES, Placement
from triptych.models.probes import decoder_probe
from triptych.serving.probes import check_probes


@dataclass(eq=False)
class DecodeRequest:
    """One picture to be made of the (K, D) hidden states and embeddings of its [IMG] tokens."""

    hidden_states: NDArray[np.float32]
    embeddings: NDArray[np.float32]
    params: DecodeParams
    is_finished: bool = False


class DecoderRunner:
    """Each picture is denoised in passes of its own."""

    def __init__(self, stage: DecoderStage, placement: Placement) -> None:
        self._stage = placement.place(stage)
        self._placement = placement
        self._denoisings: dict[DecodeRequest, Denoising] = {}

    @classmethod
    def load(cls, folder: Path, placement: Placement) -> Self:
        """Raises CheckpointError naming what is missing or wrong in `folder`."""
        return cls(DecoderStage.load(folder, DTYPES[placement.dtype]), placement)

    @property
    def num_held(self) -> int:
        """Pictures under way."""
        return len(self._denoisings)

    def check(self, card: Card, folder: Path) -> float:
        """The worst cosine over the golden probes. Raises ProbeError when one falls short."""
        return check_probes(card, folder, lambda name, inputs: decoder_probe(self._stage, name, inputs))

    def free(self, request: DecodeRequest) -> None:
        """Drops its latents; nothing happens when it has none."""
        self._denoisings.pop(request, None)

    @torch.inference_mode()
    def run(self, request: DecodeRequest) -> list[Event]:
        """One denoising step, and what there is to tell after it."""
        denoising = self._denoisings.get(request) or self._start(request)
        # `step` takes several pictures at a time, but convolutions and matrix products round differently at another
        # batch size, and the same seed must give the same picture whatever else runs: so one picture a pass.
        self._stage.step([denoising])
        events: list[Event] = [Progress(denoising.step, denoising.num_steps)]
        interval = request.params.preview_interval
        if denoising.is_finished:
            picture = self._stage.picture(denoising)
            events.append(Picture(_png(picture), width=picture.shape[1], height=picture.shape[0]))
        elif interval and denoising.step % interval == 0:
            events.append(Preview(_png(self._stage.picture(denoising)), denoising.step))
        return events

    def _start(self, request: DecodeRequest) -> Denoising:
        params = request.params
        conditioning = self._stage.condition(self._tensor(request.hidden_states), self._tensor(request.embeddings))
        denoising = self._stage.start(conditioning, params.seed, params.num_inference_steps, params.guidance_scale)
        self._denoisings[request] = denoising
        return denoising

    def _tensor(self, values: NDArray[np.float32]) -> Tensor:
        """(1, K, D)."""
        return torch.from_numpy(values)[None].to(self._placement.device, DTYPES[self._placement.dtype])


def _png(picture: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()
