"""What happens around every call: request id, a span, one log line and the metrics, readiness, errors to status.

The one place that speaks gRPC status codes. Handlers stay plain: they raise, or return, or yield.
"""

from __future__ import annotations  # grpc's classes are generic only in their stubs

import asyncio
import logging
import sys
import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Final, TypeAlias

import grpc

from triptych import status, traces
from triptych.errors import TriptychError, Unavailable, Unimplemented
from triptych.serving import caller, request_id
from triptych.serving.calls import Calls
from triptych.serving.memory import forget_frames
from triptych.serving.metrics import Metrics

log = logging.getLogger(__name__)

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Around: TypeAlias = "Callable[[Context], AbstractAsyncContextManager[None]]"
Behavior: TypeAlias = "Callable[..., Any]"
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]"

# Answered also before the replica is ready, and not counted when it drains.
ALWAYS_OPEN: Final = ("/grpc.health.", "/grpc.reflection.", "/triptych.v1.ComponentService/")
# Above 8 KiB of metadata clients begin to refuse the whole status; what is not ASCII travels as three times its bytes.
MAX_DETAILS_BYTES: Final = 2000


class AroundInterceptor(grpc.aio.ServerInterceptor):
    """Runs every call, of whatever kind, inside `around(method, context)`. Needs WriteInterceptor further inside."""

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        self.begin(handler_call_details)
        handler = await continuation(handler_call_details)
        if handler is None:  # no such method: gRPC answers UNIMPLEMENTED
            return None
        method = str(handler_call_details.method)
        return changed(handler, lambda behavior: _wrapped(behavior, lambda context: self.around(method, context)))

    def begin(self, details: grpc.HandlerCallDetails) -> None:
        """Before the handler is looked up; context variables set here reach it."""

    @abstractmethod
    def around(self, method: str, context: Context) -> AbstractAsyncContextManager[None]:
        """Entered before the handler runs, left after its last message."""


class RequestIdInterceptor(AroundInterceptor):
    """Takes the caller's x-request-id or makes one, and sends it back with the trailing metadata."""

    def begin(self, details: grpc.HandlerCallDetails) -> None:
        sent = dict(details.invocation_metadata or ()).get(request_id.KEY, "")
        request_id.current.set(request_id.accept(str(sent)))

    @asynccontextmanager
    async def around(self, method: str, context: Context) -> AsyncIterator[None]:
        context.set_trailing_metadata(((request_id.KEY, request_id.current.get()),))
        yield


class TraceInterceptor(AroundInterceptor):
    """The call as a span in its caller's trace; health checks and the like are none. Before CallInterceptor, whose log
    line and metrics name the span."""

    @asynccontextmanager
    async def around(self, method: str, context: Context) -> AsyncIterator[None]:
        if method.startswith(ALWAYS_OPEN):
            yield
            return
        name = method.rpartition("/")[2]
        with traces.received(name, context.invocation_metadata(), request_id=request_id.current.get()) as span:
            try:
                yield
            finally:
                span.set(status=_code(context, otherwise="OK" if sys.exception() is None else _broken_off(context)))


class CallInterceptor(AroundInterceptor):
    """One log line per finished call, and its metrics. Health checks and the like are logged at debug level only."""

    def __init__(self, calls: Calls, metrics: Metrics) -> None:
        self._calls = calls
        self._metrics = metrics

    @asynccontextmanager
    async def around(self, method: str, context: Context) -> AsyncIterator[None]:
        is_side_call = method.startswith(ALWAYS_OPEN)
        started = time.perf_counter()
        code = "OK"
        if not is_side_call:
            self._count(context)
        try:
            yield
            code = _code(context, otherwise="OK")
        except BaseException:
            code = _code(context, otherwise=_broken_off(context))
            raise
        finally:
            duration_ms = (time.perf_counter() - started) * 1000
            self._metrics.observe_call(method, code, duration_ms)
            facts = {"method": method, "status": code, "duration_ms": round(duration_ms, 3)}
            facts |= {"caller": who} if (who := caller.current.get()) else {}
            log.log(logging.DEBUG if is_side_call else logging.INFO, "call", extra=facts)

    def _count(self, context: Context) -> None:
        task = asyncio.current_task()
        assert task is not None, "gRPC runs every handler in a task"
        self._calls.begin(task)
        # Called after the status is on its way. The stub's callback is a class nobody can name.
        context.add_done_callback(lambda _: self._calls.end(task))  # type: ignore[arg-type]


class GateInterceptor(AroundInterceptor):
    """UNAVAILABLE while the replica is "starting" (its model may not be there, or not be proven) or "draining", and for
    calls that draining had to cut off.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    @asynccontextmanager
    async def around(self, method: str, context: Context) -> AsyncIterator[None]:
        reason = self._calls.closed_because
        if reason and not method.startswith(ALWAYS_OPEN):
            raise Unavailable(f"this replica is {reason}", retry_after_ms=1000)
        try:
            yield
        except asyncio.CancelledError:
            if self._calls.are_cut_off:
                raise Unavailable("this replica stopped before the call ended") from None
            raise


class ErrorInterceptor(AroundInterceptor):
    """Raised errors to status codes. `stage` and `replica` name this process where the error names none."""

    def __init__(self, stage: str = "", replica: str = "") -> None:
        self._stage = stage
        self._replica = replica

    @asynccontextmanager
    async def around(self, method: str, context: Context) -> AsyncIterator[None]:
        try:
            yield
        except grpc.aio.AbortError:
            raise
        except NotImplementedError:  # what generated base servicers raise
            await self._abort(context, Unimplemented(f"{method} is not implemented"))
        except TriptychError as error:
            if error.code == TriptychError.code:
                log.error("internal error", exc_info=error)
            await self._abort(context, error)
        except Exception as error:  # the edge: whatever else comes is our bug, and must not leak
            log.error("internal error", exc_info=error)
            await self._abort(context, TriptychError("internal error"))

    async def _abort(self, context: Context, error: TriptychError) -> None:
        forget_frames(error)  # gRPC's abort ties them into a circle: the garbage collector may be long in coming
        error.stage = error.stage or self._stage
        error.replica = error.replica or self._replica
        request = request_id.current.get()
        is_internal = error.code == TriptychError.code
        message = f"{error}, request id {request}" if is_internal else str(error)
        metadata = (*status.trailing_metadata(error), (request_id.KEY, request))
        with suppress(grpc.aio.InternalError):  # the caller has gone meanwhile
            await context.abort(grpc.StatusCode[error.code], _shortened(message), metadata)


def _shortened(message: str) -> str:
    """Without its middle where it is long: what a caller wrote and we repeat. The ends name the field and the bound."""
    data = message.encode(errors="replace")
    if len(data) <= MAX_DETAILS_BYTES:
        return message
    half = MAX_DETAILS_BYTES // 2
    return f"{data[:half].decode(errors='ignore')} ... {data[-half:].decode(errors='ignore')}"


def _code(context: Context, otherwise: str) -> str:
    """The status already set on the call, by name."""
    value = context.code()
    for code in grpc.StatusCode:
        if value in (code, code.value[0]) and code is not grpc.StatusCode.OK:
            return code.name
    return otherwise


def _broken_off(context: Context) -> str:
    """Why a handler was cancelled."""
    left_s = context.time_remaining()  # None: no deadline; never below 0
    return "CANCELLED" if left_s is None or left_s > 0 else "DEADLINE_EXCEEDED"


def changed(handler: Handler, change: Callable[[Behavior], Behavior]) -> Handler:
    """The same handler, of whatever kind, with another behavior."""
    kind = f"{'stream' if handler.request_streaming else 'unary'}_{'stream' if handler.response_streaming else 'unary'}"
    make = getattr(grpc, f"{kind}_rpc_method_handler")
    made: Handler = make(change(getattr(handler, kind)), handler.request_deserializer, handler.response_serializer)
    return made


def _wrapped(behavior: Behavior, around: Around) -> Callable[..., Awaitable[Any]]:
    async def handle(request: Any, context: Context) -> Any:
        async with around(context):
            answering = behavior(request, context)
            del request  # this frame outlives the call in the traceback of an abort
            return await answering

    return handle
