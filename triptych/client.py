"""The SDK: a few typed lines around the orchestrator's API, blocking (`Client`) or not (`AsyncClient`).

    with Client() as client:
        client.draw("a red circle above a blue square", seed=1).save("out.png")

Errors are the classes of `triptych.errors`, with the server's message, stage and request id. UNAVAILABLE is retried by
gRPC itself, four times within about two seconds, as long as nothing of the reply has arrived. After
`triptych.traces.configure` each call is a span, which the services go on with.
"""

import os
from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from contextlib import aclosing, closing, contextmanager
from typing import TYPE_CHECKING, Final, Self, cast

import grpc
import grpc.aio

from triptych import traces
from triptych.access import Access
from triptych.connection import Connection, open_async, open_blocking
from triptych.errors import TriptychError, Unavailable
from triptych.replies import Answer, Drawing, Event, Reply
from triptych.requests import DEFAULTS, ImageSource, Params, Task
from triptych.status import error_from_rpc
from triptych.turn import History, Turn
from triptych.v1 import orchestrator_pb2 as pb
from triptych.v1.orchestrator_pb2_grpc import OrchestratorServiceStub

if TYPE_CHECKING:
    from triptych.v1.orchestrator_pb2_grpc import OrchestratorServiceAsyncStub

DEFAULT_ADDRESS: Final = "127.0.0.1:50050"
DEFAULT_TIMEOUT_S: Final = 600.0
Images = ImageSource | Sequence[ImageSource]


class Client:
    """Blocking; may be used from several threads."""

    def __init__(
        self, address: str | None = None, *, timeout_s: float = DEFAULT_TIMEOUT_S, access: Access | None = None
    ) -> None:
        """`address` is "host:port", by default TRIPTYCH_ADDRESS or 127.0.0.1:50050; `timeout_s` bounds each call;
        `access` holds certificates and key, by default from the environment (docs/security.md)."""
        self.address = _address(address)
        self._timeout_s = timeout_s
        self._access = access or Access.from_environment()
        self._connection = Connection(self.address, self._access, open_blocking)

    def ask(self, images: Images, question: str, params: Params = DEFAULTS) -> Answer:
        """A question about one picture or several."""
        reply = self.chat().send(question, _sequence(images), "understand", params)
        return Answer(reply.text, reply.done)

    def draw(
        self, text: str, *, seed: int | None = None, steps: int | None = None, guidance: float | None = None
    ) -> Drawing:
        """A picture from a description."""
        params = Params(seed=seed, steps=steps, guidance=guidance)
        return _drawing(self.chat().send(text, (), "generate", params))

    def edit(
        self,
        image: ImageSource,
        instruction: str,
        *,
        seed: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
    ) -> Drawing:
        """A picture changed as told."""
        params = Params(seed=seed, steps=steps, guidance=guidance)
        return _drawing(self.chat().send(instruction, (image,), "edit", params))

    def chat(self) -> "Conversation":
        """A new conversation; it keeps its history, drawn pictures included."""
        return Conversation(self)

    def stream(
        self, text: str, images: Sequence[ImageSource] = (), task: Task = "auto", params: Params = DEFAULTS
    ) -> Generator[Event, None, None]:
        """One turn without history, event by event."""
        return self.chat().stream(text, images, task, params)

    def respond(self, request: pb.RespondRequest) -> Generator[pb.RespondResponse, None, None]:
        """The bare call. Closing the iterator cancels it."""
        with _translated(self.address), traces.started("respond", address=self.address) as span:
            metadata = (*self._access.metadata(self.address), *span.headers())
            call = self._stub().Respond(request, timeout=self._timeout_s, metadata=metadata)
            try:
                yield from call
            finally:
                call.cancel()

    def components(self) -> pb.ListComponentsResponse:
        """Every replica, and which ones work together."""
        with _translated(self.address):
            metadata = self._access.metadata(self.address)
            return self._stub().ListComponents(pb.ListComponentsRequest(), timeout=self._timeout_s, metadata=metadata)

    def close(self) -> None:
        for channel in self._connection.opened:
            channel.close()

    def _stub(self) -> OrchestratorServiceStub:
        return OrchestratorServiceStub(self._connection.channel())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class AsyncClient:
    """The same without blocking; belongs to one event loop."""

    def __init__(
        self, address: str | None = None, *, timeout_s: float = DEFAULT_TIMEOUT_S, access: Access | None = None
    ) -> None:
        """As Client; needs a running event loop."""
        self.address = _address(address)
        self._timeout_s = timeout_s
        self._access = access or Access.from_environment()
        self._connection = Connection(self.address, self._access, open_async)

    async def ask(self, images: Images, question: str, params: Params = DEFAULTS) -> Answer:
        """A question about one picture or several."""
        reply = await self.chat().send(question, _sequence(images), "understand", params)
        return Answer(reply.text, reply.done)

    async def draw(
        self, text: str, *, seed: int | None = None, steps: int | None = None, guidance: float | None = None
    ) -> Drawing:
        """A picture from a description."""
        params = Params(seed=seed, steps=steps, guidance=guidance)
        return _drawing(await self.chat().send(text, (), "generate", params))

    async def edit(
        self,
        image: ImageSource,
        instruction: str,
        *,
        seed: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
    ) -> Drawing:
        """A picture changed as told."""
        params = Params(seed=seed, steps=steps, guidance=guidance)
        return _drawing(await self.chat().send(instruction, (image,), "edit", params))

    def chat(self) -> "AsyncConversation":
        """A new conversation; it keeps its history, drawn pictures included."""
        return AsyncConversation(self)

    def stream(
        self, text: str, images: Sequence[ImageSource] = (), task: Task = "auto", params: Params = DEFAULTS
    ) -> AsyncGenerator[Event, None]:
        """One turn without history, event by event."""
        return self.chat().stream(text, images, task, params)

    async def respond(self, request: pb.RespondRequest) -> AsyncGenerator[pb.RespondResponse, None]:
        """The bare call. Closing the iterator cancels it."""
        with _translated(self.address), traces.started("respond", address=self.address) as span:
            metadata = (*self._access.metadata(self.address), *span.headers())
            call = self._stub().Respond(request, timeout=self._timeout_s, metadata=metadata)
            try:
                async for response in call:
                    yield response
            finally:
                call.cancel()

    async def components(self) -> pb.ListComponentsResponse:
        """Every replica, and which ones work together."""
        with _translated(self.address):
            metadata = self._access.metadata(self.address)
            return await self._stub().ListComponents(
                pb.ListComponentsRequest(), timeout=self._timeout_s, metadata=metadata
            )

    async def close(self) -> None:
        for channel in self._connection.opened:
            await channel.close()

    def _stub(self) -> "OrchestratorServiceAsyncStub":
        return OrchestratorServiceStub(self._connection.channel())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()


class Conversation:
    """Turns with a memory. A turn that fails or is abandoned leaves no trace in `messages`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._history = History()

    @property
    def messages(self) -> list[pb.Message]:
        return self._history.messages

    def send(
        self, text: str, images: Sequence[ImageSource] = (), task: Task = "auto", params: Params = DEFAULTS
    ) -> Reply:
        """The whole reply at once."""
        turn = Turn(self._history, text, images, task, params)
        for response in self._client.respond(turn.request):
            turn.read(response)
        return turn.reply

    def stream(
        self, text: str, images: Sequence[ImageSource] = (), task: Task = "auto", params: Params = DEFAULTS
    ) -> Generator[Event, None, None]:
        """The reply event by event; it joins the history with its last event."""
        turn = Turn(self._history, text, images, task, params)
        with closing(self._client.respond(turn.request)) as responses:
            for response in responses:
                yield turn.read(response)


class AsyncConversation:
    """As Conversation."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._history = History()

    @property
    def messages(self) -> list[pb.Message]:
        return self._history.messages

    async def send(
        self, text: str, images: Sequence[ImageSource] = (), task: Task = "auto", params: Params = DEFAULTS
    ) -> Reply:
        """The whole reply at once."""
        turn = Turn(self._history, text, images, task, params)
        async with aclosing(self._client.respond(turn.request)) as responses:
            async for response in responses:
                turn.read(response)
        return turn.reply

    async def stream(
        self, text: str, images: Sequence[ImageSource] = (), task: Task = "auto", params: Params = DEFAULTS
    ) -> AsyncGenerator[Event, None]:
        """The reply event by event; it joins the history with its last event."""
        turn = Turn(self._history, text, images, task, params)
        async with aclosing(self._client.respond(turn.request)) as responses:
            async for response in responses:
                yield turn.read(response)


@contextmanager
def _translated(address: str) -> Iterator[None]:
    """GRPC failures as our errors. A failure without a request id never reached an orchestrator."""
    try:
        yield
    except grpc.RpcError as rpc_error:
        failed = cast(grpc.aio.AioRpcError, rpc_error)  # the blocking kind has the same methods
        error = error_from_rpc(failed)
        id_ = dict(failed.trailing_metadata() or ()).get("x-request-id")
        if id_ is None and isinstance(error, Unavailable):
            raise Unavailable(f"no orchestrator answers at {address}: {error}", stage="orchestrator") from None
        if id_ and str(id_) not in str(error):
            error.args = (f"{error} (request {id_!s})",)
        raise error from None


def _address(address: str | None) -> str:
    return address or os.environ.get("TRIPTYCH_ADDRESS") or DEFAULT_ADDRESS


def _sequence(images: Images) -> Sequence[ImageSource]:
    return images if isinstance(images, list | tuple) else (images,)


def _drawing(reply: Reply) -> Drawing:
    """Raises TriptychError when the model did not draw."""
    if not reply.images:
        raise TriptychError(f"the reply holds no picture, it says {reply.text!r} (request {reply.done.request_id})")
    return reply.images[0]
