"""One picture of a reply: hidden states to progress, previews and the image."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from services.orchestrator.chooser import Chooser
from services.orchestrator.request import drawn_seed
from services.orchestrator.routing import Candidate, Route, name_of
from services.orchestrator.stages import Conditioning, DecodeEvent
from services.orchestrator.turn import Turn
from triptych.errors import TriptychError
from triptych.v1 import decoder_pb2
from triptych.v1 import orchestrator_pb2 as pb


async def draw(
    turn: Turn, route: Route, chooser: Chooser, conditioning: Conditioning
) -> AsyncGenerator[pb.RespondResponse, None]:
    """Progress and previews, last the image. A decoder that fails is replaced by one of another generation with the
    same space, which paints another picture, as long as nothing of the first was shown."""
    index, space = conditioning.header.image_index, conditioning.header.space
    llm = name_of(route.llm.card)
    if route.decoder is None:
        raise TriptychError(f"{llm} drew image {index} although it was told not to", stage="llm")
    if space != route.llm.card.output("hidden_states").space:
        raise TriptychError(f"{llm} sent hidden states in space {space!r}, its card promised another", stage="llm")
    params = decode_params(turn.request.image_params)
    decoder, has_shown, num_steps = route.decoder, False, 0
    while True:
        try:
            async with aclosing(turn.stages.decode(decoder, params, conditioning)) as events:
                async for event in events:
                    if isinstance(event, decoder_pb2.Progress):
                        if event.step <= num_steps:
                            continue
                        num_steps = event.step
                    else:
                        has_shown = True
                    yield _response(index, event)
        except TriptychError as error:
            if has_shown:
                raise
            decoder = _another(chooser, route, decoder, error)
        else:
            return


def decode_params(params: pb.ImageParams) -> decoder_pb2.DecodeParams:
    """Absent stays absent (the card's default), but for the seed: a redone picture must be the same one."""
    wanted = decoder_pb2.DecodeParams(seed=params.seed if params.HasField("seed") else drawn_seed())
    if params.HasField("num_inference_steps"):
        wanted.num_inference_steps = params.num_inference_steps
    if params.HasField("guidance_scale"):
        wanted.guidance_scale = params.guidance_scale
    if params.HasField("preview_interval"):
        wanted.preview_interval = params.preview_interval
    return wanted


def _another(chooser: Chooser, route: Route, decoder: Candidate, error: TriptychError) -> Candidate:
    return chooser.another_decoder(Route(route.encoder, route.llm, decoder), error)


def _response(index: int, event: DecodeEvent) -> pb.RespondResponse:
    if isinstance(event, decoder_pb2.Progress):
        progress = pb.ImageProgress(image_index=index, step=event.step, num_steps=event.num_steps)
        return pb.RespondResponse(image_progress=progress)
    if isinstance(event, decoder_pb2.Preview):
        return pb.RespondResponse(image_preview=pb.ImagePreview(image_index=index, image=event.image, step=event.step))
    image = pb.Image(image_index=index, image=event.image, width=event.width, height=event.height, seed=event.seed)
    return pb.RespondResponse(image=image)
