"""A RespondRequest, checked: what the pipeline works on. Every refusal names the field, the value and the bound."""

import secrets
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Protocol

from triptych.errors import InvalidArgument
from triptych.prompts import Message, Picture, Task
from triptych.v1 import llm_pb2
from triptych.v1 import orchestrator_pb2 as pb

TASKS: Final[dict[int, Task]] = {
    pb.TASK_UNSPECIFIED: "auto",
    pb.TASK_AUTO: "auto",
    pb.TASK_UNDERSTAND: "understand",
    pb.TASK_GENERATE: "generate",
    pb.TASK_EDIT: "edit",
}
MAX_CONTENTS: Final = 4096  # of all messages: a message of 64 MiB holds 16 million empty ones
MAX_CHAIN: Final = 16  # cards that may have served one turn
MAX_DIGEST_CHARS: Final = 256
MAX_STOPS: Final = 16
MAX_STOP_CHARS: Final = 256
MAX_DRAWN_SEED: Final = 2**32  # seeds we draw ourselves stay short enough to type


class Limits(Protocol):
    """The bounds of one request; OrchestratorConfig has them."""

    @property
    def max_messages(self) -> int: ...
    @property
    def max_text_chars(self) -> int: ...
    @property
    def max_images_per_request(self) -> int: ...
    @property
    def max_image_bytes(self) -> int: ...


@dataclass(frozen=True)
class Upload:
    """An encoded image file, and the field it came in. The bytes stay in the message, which gRPC keeps for as long as
    the call lasts; `data` is a copy."""

    field: str
    content: pb.Content

    @property
    def data(self) -> bytes:
        return self.content.image


@dataclass(frozen=True)
class Request:
    """One turn to answer. `pictures` are indexed by the Picture entries of the messages; `tasks` holds
    one task per user turn, the last one being what is asked now; `chain` the digests that served the turn before.
    `num_bytes` is the size of the message it came in.
    """

    messages: tuple[Message, ...]
    pictures: tuple[Upload, ...]
    tasks: tuple[Task, ...]
    sampling: llm_pb2.SamplingParams
    image_params: pb.ImageParams
    chain: frozenset[str] = frozenset()
    num_bytes: int = 0

    @property
    def task(self) -> Task:
        return self.tasks[-1]


def parse(request: pb.RespondRequest, limits: Limits) -> Request:
    """Raises InvalidArgument. Pictures are counted and measured here, decoded later."""
    _bounded("messages", len(request.messages), 1, limits.max_messages, "entries")
    _bounded("messages: contents", sum(len(m.contents) for m in request.messages), 0, MAX_CONTENTS, "entries")
    if request.task not in TASKS:
        raise InvalidArgument(f"task is {request.task}, must be one of {', '.join(pb.Task.keys())}")
    pictures: list[Upload] = []
    messages = [_message(f"messages[{i}]", m, pictures, limits) for i, m in enumerate(request.messages)]
    if messages[-1].role != "user":
        raise InvalidArgument(
            f"messages[{len(messages) - 1}].role is {messages[-1].role}, the last one must be the user's"
        )
    num_chars = sum(len(content) for m in messages for content in m.contents if isinstance(content, str))
    _bounded("messages: text", num_chars, 0, limits.max_text_chars, "characters")
    _bounded("messages: images", len(pictures), 0, limits.max_images_per_request, "images")
    task = TASKS[request.task]
    if task == "edit" and not pictures:
        raise InvalidArgument("task is TASK_EDIT with 0 images in messages, must have at least 1")
    _check_sampling(request.sampling)
    _check_image_params(request.image_params, limits)
    _bounded("chain", len(request.chain), 0, MAX_CHAIN, "entries")
    for index, digest in enumerate(request.chain):
        _bounded(f"chain[{index}]", len(digest), 1, MAX_DIGEST_CHARS, "characters")
    tasks = (*_past_tasks(messages), task)
    chain = frozenset(request.chain)
    num_bytes = request.ByteSize()
    return Request(tuple(messages), tuple(pictures), tasks, request.sampling, request.image_params, chain, num_bytes)


def _message(name: str, message: pb.Message, pictures: list[Upload], limits: Limits) -> Message:
    """Appends the message's pictures to `pictures`."""
    if message.role not in (pb.ROLE_USER, pb.ROLE_ASSISTANT):
        raise InvalidArgument(f"{name}.role is {message.role}, must be ROLE_USER or ROLE_ASSISTANT")
    contents: list[str | Picture] = []
    for index, content in enumerate(message.contents):
        match content.WhichOneof("content"):
            case "text":
                contents += [content.text] if content.text.strip() else []
            case "image":
                upload = Upload(f"{name}.contents[{index}].image", content)
                _bounded(upload.field, len(content.image), 1, limits.max_image_bytes, "bytes")
                contents.append(Picture(len(pictures)))
                pictures.append(upload)
            case _:
                raise InvalidArgument(f"{name}.contents[{index}] is empty, must hold text or image")
    if message.role == pb.ROLE_ASSISTANT:
        return Message("assistant", tuple(contents))
    if not contents:
        raise InvalidArgument(f"{name} holds no text and no image, a user's message must hold at least one")
    return Message("user", tuple(contents))


def _past_tasks(messages: list[Message]) -> list[Task]:
    """What each user turn but the last one was, told from what followed it."""
    tasks: list[Task] = []
    has_picture = False
    for message, following in pairwise(messages):
        has_picture |= _has_picture(message)
        if message.role == "user":
            drew = following.role == "assistant" and _has_picture(following)
            tasks.append(("edit" if has_picture else "generate") if drew else "understand")
    return tasks


def _has_picture(message: Message) -> bool:
    return any(isinstance(content, Picture) for content in message.contents)


def _check_sampling(params: llm_pb2.SamplingParams) -> None:
    """`max_tokens` has its upper bound on the LLM's card, checked once the LLM is chosen."""
    _bounded_if_set(params, "sampling", "temperature", 0, 10)
    _bounded_if_set(params, "sampling", "top_k", 0, 2**31 - 1)
    _bounded_if_set(params, "sampling", "top_p", 0, 1)
    if params.HasField("top_p") and params.top_p == 0:
        raise InvalidArgument("sampling.top_p is 0, must be above 0 and at most 1")
    _bounded_if_set(params, "sampling", "max_tokens", 1, 2**31 - 1)
    _bounded_if_set(params, "sampling", "seed", 0, 2**63 - 1)
    _bounded("sampling.stop", len(params.stop), 0, MAX_STOPS, "entries")
    for index, stop in enumerate(params.stop):
        _bounded(f"sampling.stop[{index}]", len(stop), 1, MAX_STOP_CHARS, "characters")


def _check_image_params(params: pb.ImageParams, limits: Limits) -> None:
    """`num_inference_steps` has its upper bound on the decoder's card, checked once the decoder is chosen."""
    _bounded_if_set(params, "image_params", "seed", 0, 2**63 - 1)
    _bounded_if_set(params, "image_params", "num_inference_steps", 1, 2**31 - 1)
    _bounded_if_set(params, "image_params", "guidance_scale", 0, 50)
    _bounded_if_set(params, "image_params", "preview_interval", 0, 2**31 - 1)
    _bounded_if_set(params, "image_params", "max_images", 1, limits.max_images_per_request)


def _bounded(name: str, value: int, low: int, high: int, unit: str) -> None:
    if not low <= value <= high:
        raise InvalidArgument(f"{name} has {value} {unit}, must be {low} to {high}")


def _bounded_if_set(
    params: llm_pb2.SamplingParams | pb.ImageParams, where: str, name: str, low: int, high: int
) -> None:
    if not params.HasField(name):  # type: ignore[arg-type]
        return
    value = getattr(params, name)
    if not low <= value <= high:  # NaN fails too
        raise InvalidArgument(f"{where}.{name} is {value:g}, must be {low} to {high}")


def drawn_seed() -> int:
    """For a caller who names none: what is redone must come out the same."""
    return secrets.randbelow(MAX_DRAWN_SEED)
