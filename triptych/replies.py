"""What the orchestrator answers, as plain frozen values: the events of a stream, and the reply they add up to."""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triptych.errors import TriptychError
from triptych.v1 import orchestrator_pb2 as pb

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage
else:
    PilImage = Any


@dataclass(frozen=True)
class TextDelta:
    """The next piece of text."""

    text: str


@dataclass(frozen=True)
class ImageStarted:
    """The model has decided to draw; `index` counts the pictures of this reply from 0."""

    index: int


@dataclass(frozen=True)
class Progress:
    """`step` of `num_steps` denoising steps are done."""

    index: int
    step: int
    num_steps: int


@dataclass(frozen=True)
class Preview:
    """A rough look at the picture under way, as large as it will be."""

    index: int
    png: bytes = field(repr=False)
    step: int


@dataclass(frozen=True)
class Drawing:
    """A finished picture. Ask again with its `seed` for the same one."""

    index: int
    png: bytes = field(repr=False)
    width: int
    height: int
    seed: int

    def save(self, path: str | Path) -> None:
        """Writes the file in the format its name asks for; anything but .png needs Pillow."""
        path = Path(path)
        if path.suffix.lower() in ("", ".png"):
            path.write_bytes(self.png)
        else:
            self.to_pil().save(path)

    def to_pil(self) -> PilImage:
        """Needs Pillow."""
        from PIL import Image

        return Image.open(io.BytesIO(self.png))


@dataclass(frozen=True)
class StageTime:
    """What one stage of the request took, in milliseconds."""

    stage: str
    queued_ms: float
    running_ms: float


@dataclass(frozen=True)
class ServedBy:
    """A component that took part; `replica_id` is empty where its work was found in a cache."""

    kind: str
    name: str
    version: str
    digest: str
    replica_id: str
    generation: str = ""


@dataclass(frozen=True)
class Usage:
    """Sizes of the request; a picture's embeddings count as prompt tokens."""

    num_prompt_tokens: int
    num_generated_tokens: int
    num_images: int


@dataclass(frozen=True)
class Done:
    """The last event of every stream."""

    finish_reason: str
    usage: Usage
    stage_times: tuple[StageTime, ...]
    served_by: tuple[ServedBy, ...]
    total_ms: float
    request_id: str


Event = TextDelta | ImageStarted | Progress | Preview | Drawing | Done


@dataclass(frozen=True)
class Answer:
    """Text about pictures."""

    text: str
    done: Done = field(repr=False)


@dataclass(frozen=True)
class Reply:
    """One whole turn of the model: texts and pictures in reading order."""

    contents: tuple[str | Drawing, ...]
    done: Done = field(repr=False)

    @property
    def text(self) -> str:
        return "".join(content for content in self.contents if isinstance(content, str)).strip()

    @property
    def images(self) -> tuple[Drawing, ...]:
        return tuple(content for content in self.contents if isinstance(content, Drawing))

    @property
    def stage_times(self) -> tuple[StageTime, ...]:
        return self.done.stage_times


class ReplyReader:
    """Turns one stream's messages into events and remembers what they add up to."""

    def __init__(self) -> None:
        self._num_seen = 0
        self._contents: list[str | Drawing] = []
        self._done: Done | None = None

    def read(self, response: pb.RespondResponse) -> Event:
        """Raises TriptychError when an event was lost or repeated."""
        if response.sequence_number != self._num_seen:
            raise TriptychError(f"event {response.sequence_number} came where {self._num_seen} was due")
        self._num_seen += 1
        event = _event(response)
        if isinstance(event, Drawing):
            self._contents.append(event)
        elif isinstance(event, TextDelta):
            if self._contents and isinstance(self._contents[-1], str):
                self._contents[-1] += event.text
            else:
                self._contents.append(event.text)
        elif isinstance(event, Done):
            self._done = event
        return event

    @property
    def reply(self) -> Reply:
        """Raises TriptychError when the stream ended early."""
        if self._done is None:
            raise TriptychError(f"the stream ended after {self._num_seen} events without a Done")
        return Reply(tuple(self._contents), self._done)


def _event(response: pb.RespondResponse) -> Event:
    match response.WhichOneof("event"):
        case "text":
            return TextDelta(response.text.text)
        case "image_started":
            return ImageStarted(response.image_started.image_index)
        case "image_progress":
            progress = response.image_progress
            return Progress(progress.image_index, progress.step, progress.num_steps)
        case "image_preview":
            preview = response.image_preview
            return Preview(preview.image_index, preview.image, preview.step)
        case "image":
            image = response.image
            return Drawing(image.image_index, image.image, image.width, image.height, image.seed)
        case "done":
            return _done(response.done)
        case _:
            raise TriptychError(f"event {response.sequence_number} is of a kind this client does not know: upgrade it")


def _done(done: pb.Done) -> Done:
    usage = done.usage
    return Done(
        finish_reason=done.finish_reason,
        usage=Usage(usage.num_prompt_tokens, usage.num_generated_tokens, usage.num_images),
        stage_times=tuple(StageTime(t.stage, t.queued_ms, t.running_ms) for t in done.stage_times),
        served_by=tuple(
            ServedBy(s.kind, s.name, s.version, s.digest, s.replica_id, s.generation) for s in done.served_by
        ),
        total_ms=done.total_ms,
        request_id=done.request_id,
    )
