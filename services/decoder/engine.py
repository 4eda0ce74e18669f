"""The engine's three verbs: pictures take turns, the runner does one denoising step, its events go out."""

from collections.abc import AsyncGenerator

from services.decoder.config import DecoderConfig
from services.decoder.events import Event, Picture
from services.decoder.runner import DecodeRequest, DecoderRunner
from triptych.card import Card, verify_digest
from triptych.models.placement import Placement
from triptych.serving.batching import Load, Timing
from triptych.serving.metrics import Metrics
from triptych.serving.rotation import Rotation
from triptych.serving.stepping import StepLoop


class DecoderEngine:
    """Requests join and leave at every denoising step."""

    def __init__(self, config: DecoderConfig, card: Card, placement: Placement, metrics: Metrics) -> None:
        self._config = config
        self._card = card
        self._placement = placement
        self._scheduler = Rotation[DecodeRequest]("decoder", config.max_num_requests, config.max_queue_size)
        self._loop = StepLoop(
            "decoder",
            self._scheduler,
            run=self._run,
            postprocess=self._postprocess,
            free=self._free,
            metrics=metrics,
            phase=lambda _: "denoise",
        )
        self._steps = metrics.counter("steps", "denoising steps run")
        self._images = metrics.counter("images", "images made")

    @property
    def load(self) -> Load:
        return self._scheduler.load

    @property
    def num_denoisings(self) -> int:
        """Pictures that hold memory on the device."""
        return self._runner.num_held

    async def start(self) -> float:
        """Loads the component and returns the worst cosine over its probes; raises CheckpointError or ProbeError."""
        self._runner, cosine = await self._loop.start(self._load)
        return cosine

    def decode(self, request: DecodeRequest, timing: Timing) -> AsyncGenerator[Event, None]:
        """Ends with one Picture. Raises ResourceExhausted when the queue is full."""
        return self._loop.stream(request, timing)

    async def stop(self) -> None:
        await self._loop.stop()

    def _load(self) -> tuple[DecoderRunner, float]:
        folder = self._config.checkpoint
        verify_digest(folder, self._card)
        runner = DecoderRunner.load(folder, self._placement)
        return runner, runner.check(self._card, folder)

    def _run(self, request: DecodeRequest) -> list[Event]:
        return self._runner.run(request)

    def _postprocess(self, request: DecodeRequest, events: list[Event]) -> list[Event]:
        self._steps.inc()
        if isinstance(events[-1], Picture):
            request.is_finished = True
            self._images.inc()
        return events

    def _free(self, request: DecodeRequest) -> None:
        self._runner.free(request)
