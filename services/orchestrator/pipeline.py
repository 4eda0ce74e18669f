"""The life of a request, top to bottom: admit, check, route, encode, generate, decode. Yields the reply's events in
order; closing the generator at any point ends every call below it.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from services.orchestrator import prompt
from services.orchestrator.admission import Admission
from services.orchestrator.backends import Backends
from services.orchestrator.chooser import Chooser
from services.orchestrator.drawing import draw
from services.orchestrator.embedder import Embedder
from services.orchestrator.facts import DecoderFacts, LlmFacts
from services.orchestrator.metrics import OrchestratorMetrics
from services.orchestrator.request import Request
from services.orchestrator.routing import Route, name_of
from services.orchestrator.stages import Conditioning, Stages, TimeoutFor
from services.orchestrator.tally import Tally
from services.orchestrator.turn import Turn
from triptych import traces
from triptych.errors import InvalidArgument, TriptychError
from triptych.v1 import llm_pb2, tensor_pb2
from triptych.v1 import orchestrator_pb2 as pb


class Pipeline:
    """Shared by all requests; holds no state of any one of them."""

    def __init__(
        self, backends: Backends, embedder: Embedder, admission: Admission, metrics: OrchestratorMetrics
    ) -> None:
        self._backends = backends
        self._embedder = embedder
        self._admission = admission
        self._metrics = metrics

    async def run(
        self, request: Request, timeout_for: TimeoutFor, request_id: str
    ) -> AsyncGenerator[pb.RespondResponse, None]:
        """The events, unnumbered; the last one is Done. Raises the TriptychError of whatever went wrong."""
        tally = Tally(self._metrics, self._backends.trials)
        async with self._admission.admitted(request.num_bytes) as waited_ms:
            self._metrics.admitted(waited_ms)
            with traces.span("check pictures", pictures=len(request.pictures)):
                pictures = await self._embedder.check(request.pictures, self._backends.candidates("encoder"))
            turn = Turn(request, request_id, pictures, tally, Stages(self._backends, tally, timeout_for))
            chooser = Chooser(self._backends, request)
            route = chooser.route()
            has_shown = False
            while True:
                try:
                    async with aclosing(self._served(turn, route, chooser)) as events:
                        async for event in events:
                            has_shown = True
                            yield event
                except TriptychError as error:
                    if has_shown:
                        raise
                    route = chooser.reroute(route, error)
                    tally.discard()
                else:
                    return

    async def _served(self, turn: Turn, route: Route, chooser: Chooser) -> AsyncGenerator[pb.RespondResponse, None]:
        """By one chain; only the decoder may change on the way."""
        with self._backends.pinned(route):
            self._metrics.chosen(route)
            check_against_cards(turn.request, route)
            message, chunks = await self._prompt(turn, route)
            async with aclosing(turn.stages.generate(route.llm, message, chunks)) as events:
                async for event in events:
                    if isinstance(event, llm_pb2.TextDelta):
                        if event.text:
                            yield pb.RespondResponse(text=pb.RespondText(text=event.text))
                    elif isinstance(event, llm_pb2.ImageStart):
                        yield pb.RespondResponse(image_started=pb.ImageStarted(image_index=event.image_index))
                    elif isinstance(event, Conditioning):
                        async with aclosing(draw(turn, route, chooser, event)) as drawn:
                            async for response in drawn:
                                yield response
                    else:
                        yield pb.RespondResponse(done=turn.tally.done(event, turn.request_id))

    async def _prompt(self, turn: Turn, route: Route) -> tuple[llm_pb2.Prompt, list[tensor_pb2.TensorChunk]]:
        """With the embeddings of the pictures that it shows."""
        segments = prompt.segments_of(turn.request, route)
        shown = prompt.pictures_in(segments)
        embeddings = []
        if route.encoder:
            with traces.span("embed", pictures=len(shown)):
                seen = [turn.pictures[i] for i in shown]
                embeddings = await self._embedder.embed(seen, route.encoder, turn.stages, turn.tally)
        return prompt.build(turn.request, route, segments, dict(zip(shown, embeddings, strict=True)))


def check_against_cards(request: Request, route: Route) -> None:
    """The bounds that only the chosen cards know. Raises InvalidArgument."""
    max_tokens = LlmFacts.of(route.llm.card).max_model_len
    if (value := request.sampling.max_tokens) > max_tokens:
        name = name_of(route.llm.card)
        raise InvalidArgument(f"sampling.max_tokens is {value}, must be 1 to {max_tokens} for {name}")
    if route.decoder is None:
        return
    max_steps = DecoderFacts.of(route.decoder.card).max_num_inference_steps
    steps = request.image_params.num_inference_steps
    if steps > max_steps:
        raise InvalidArgument(
            f"image_params.num_inference_steps is {steps}, must be 1 to {max_steps} for {name_of(route.decoder.card)}"
        )
