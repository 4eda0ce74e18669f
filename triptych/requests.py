"""What users ask, as messages of the contract. Checks only what the wire cannot carry: the server knows the bounds."""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from triptych.errors import InvalidArgument
from triptych.replies import Reply
from triptych.v1 import orchestrator_pb2 as pb
from triptych.v1.llm_pb2 import SamplingParams

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage
else:
    PilImage = Any

Task = Literal["auto", "understand", "generate", "edit"]
ImageSource = str | os.PathLike[str] | bytes | PilImage

_TASKS: Final[dict[str, pb.Task.ValueType]] = {
    "auto": pb.TASK_AUTO,
    "understand": pb.TASK_UNDERSTAND,
    "generate": pb.TASK_GENERATE,
    "edit": pb.TASK_EDIT,
}


@dataclass(frozen=True, kw_only=True)
class Params:
    """How to answer; None leaves the choice to the server. `seed` is for pictures and for sampled text alike."""

    seed: int | None = None
    steps: int | None = None
    guidance: float | None = None
    preview_interval: int | None = None  # a preview every so many steps
    max_images: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()


DEFAULTS: Final = Params()


def user_message(text: str, images: Sequence[ImageSource] = ()) -> pb.Message:
    """Pictures first, then the text. Raises InvalidArgument when a file cannot be read."""
    contents = [pb.Content(image=image_bytes(image)) for image in images]
    return pb.Message(role=pb.ROLE_USER, contents=[*contents, *([pb.Content(text=text)] if text else [])])


def assistant_message(reply: Reply) -> pb.Message:
    """A reply as history, pictures included: the model sees them again."""
    contents = [pb.Content(text=c) if isinstance(c, str) else pb.Content(image=c.png) for c in reply.contents]
    return pb.Message(role=pb.ROLE_ASSISTANT, contents=contents)


def request_of(
    messages: Sequence[pb.Message], task: Task, params: Params, chain: Sequence[str] = ()
) -> pb.RespondRequest:
    """`chain`: digests of the cards that served the turn before. Raises InvalidArgument for an unknown task or a number
    that does not fit its field."""
    if task not in _TASKS:
        raise InvalidArgument(f"task is {task!r}, must be one of {', '.join(_TASKS)}")
    try:
        sampling = SamplingParams(
            temperature=params.temperature,
            top_k=params.top_k,
            top_p=params.top_p,
            max_tokens=params.max_tokens,
            seed=params.seed,
            stop=params.stop,
        )
        image_params = pb.ImageParams(
            seed=params.seed,
            num_inference_steps=params.steps,
            guidance_scale=params.guidance,
            preview_interval=params.preview_interval,
            max_images=params.max_images,
        )
    except ValueError as error:
        raise InvalidArgument(f"{params}: {error}") from error
    return pb.RespondRequest(
        messages=messages, task=_TASKS[task], sampling=sampling, image_params=image_params, chain=chain
    )


def image_bytes(image: ImageSource) -> bytes:
    """The encoded file behind a path, encoded bytes or a PIL image."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | os.PathLike):
        try:
            return Path(image).read_bytes()
        except OSError as error:
            raise InvalidArgument(f"image {os.fspath(image)!r}: {error.strerror}") from error
        except ValueError as error:  # a path with a NUL
            raise InvalidArgument(f"image {os.fspath(image)!r}: {error}") from error
    png = io.BytesIO()
    image.save(png, "PNG")
    return png.getvalue()
