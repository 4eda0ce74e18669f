"""The life of a request, top to bottom: admit, check, route, encode, generate, decode. Yields the reply's events in
order; closing the generator at any point ends every call below it.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from services.orchestrator import prompt
from services.orchestrator.admission import Admission
from services.orchestrator.backends import Backends
from services.orchestrator.embedder import Embedder
from services.orchestrator.facts import DecoderFacts, LlmFacts
from services.orchestrator.metrics import OrchestratorMetrics
from services.orchestrator.request import Request, drawn_seed
from services.orchestrator.routing import Route, choose, name_of
from services.orchestrator.stages import Conditioning, Stages, TimeoutFor
from services.orchestrator.tally import Tally
from triptych import traces
from triptych.errors import InvalidArgument, TriptychError, Unimplemented
from triptych.v1 import decoder_pb2, llm_pb2
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
        tally = Tally(self._metrics)
        async with self._admission.admitted() as waited_ms:
            self._metrics.admitted(waited_ms)
            with traces.span("check pictures", pictures=len(request.pictures)):
                pictures = await self._embedder.check(request.pictures, self._backends.candidates("encoder"))
            route = self._route(request)
            self._metrics.chosen(route)
            check_against_cards(request, route)
            stages = Stages(self._backends, tally, timeout_for)
            segments = prompt.segments_of(request, route)
            shown = prompt.pictures_in(segments)
            embeddings = []
            if route.encoder:
                with traces.span("embed", pictures=len(shown)):
                    embeddings = await self._embedder.embed([pictures[i] for i in shown], route.encoder, stages, tally)
            message, chunks = prompt.build(request, route, segments, dict(zip(shown, embeddings, strict=True)))
            async with aclosing(stages.generate(route.llm, message, chunks)) as events:
                async for event in events:
                    if isinstance(event, llm_pb2.TextDelta):
                        if event.text:
                            yield pb.RespondResponse(text=pb.RespondText(text=event.text))
                    elif isinstance(event, llm_pb2.ImageStart):
                        yield pb.RespondResponse(image_started=pb.ImageStarted(image_index=event.image_index))
                    elif isinstance(event, Conditioning):
                        async with aclosing(_draw(request, route, stages, event)) as drawn:
                            async for response in drawn:
                                yield response
                    else:
                        yield pb.RespondResponse(done=tally.done(event, request_id))

    def _route(self, request: Request) -> Route:
        candidates = self._backends.candidates
        route = choose(
            candidates("encoder"),
            candidates("llm"),
            candidates("decoder"),
            pictures=bool(request.pictures),
            task=request.task,
        )
        if route.decoder is None or DecoderFacts.of(route.decoder.card).handover != "loop":
            return route
        if request.task == "auto":
            return Route(route.encoder, route.llm, None)
        raise Unimplemented(f"{name_of(route.decoder.card)} draws by handover loop, not served yet", stage="decoder")


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


async def _draw(
    request: Request, route: Route, stages: Stages, conditioning: Conditioning
) -> AsyncGenerator[pb.RespondResponse, None]:
    """One picture: progress and previews, last the image."""
    index, space = conditioning.header.image_index, conditioning.header.space
    llm = name_of(route.llm.card)
    if route.decoder is None:
        raise TriptychError(f"{llm} drew image {index} although it was told not to", stage="llm")
    if space != route.llm.card.output("hidden_states").space:
        raise TriptychError(f"{llm} sent hidden states in space {space!r}, its card promised another", stage="llm")
    params = _decode_params(request.image_params)
    async with aclosing(stages.decode(route.decoder, params, conditioning)) as events:
        async for event in events:
            if isinstance(event, decoder_pb2.Progress):
                progress = pb.ImageProgress(image_index=index, step=event.step, num_steps=event.num_steps)
                yield pb.RespondResponse(image_progress=progress)
            elif isinstance(event, decoder_pb2.Preview):
                preview = pb.ImagePreview(image_index=index, image=event.image, step=event.step)
                yield pb.RespondResponse(image_preview=preview)
            else:
                image = pb.Image(
                    image_index=index, image=event.image, width=event.width, height=event.height, seed=event.seed
                )
                yield pb.RespondResponse(image=image)


def _decode_params(params: pb.ImageParams) -> decoder_pb2.DecodeParams:
    """Absent stays absent (the card's default), but for the seed: a redone picture must be the same one."""
    wanted = decoder_pb2.DecodeParams(seed=params.seed if params.HasField("seed") else drawn_seed())
    if params.HasField("num_inference_steps"):
        wanted.num_inference_steps = params.num_inference_steps
    if params.HasField("guidance_scale"):
        wanted.guidance_scale = params.guidance_scale
    if params.HasField("preview_interval"):
        wanted.preview_interval = params.preview_interval
    return wanted
