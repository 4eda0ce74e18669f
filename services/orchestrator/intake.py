"""When a call's message is read: after everything that can refuse the call without it."""

from __future__ import annotations  # grpc's classes are generic only in their stubs

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from triptych.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted
from triptych.serving.interceptors import Context, Continuation, Handler

BOUNDED: Final = "/triptych.v1.OrchestratorService/Respond"
READ_TIMEOUT_S: Final = 120.0  # 64 MiB over a line of 5 Mbit/s
SPARE: Final = 16  # above what runs and waits: the queue itself refuses first, and says how full it is


class IntakeInterceptor(grpc.aio.ServerInterceptor):
    """gRPC reads a unary request before it runs the handler and what is around it. As a stream it is read, decompressed
    and parsed only when asked for: strangers, and callers for whom there is no place, cost no memory."""

    def __init__(self, max_calls: int) -> None:
        """`max_calls` bounds the calls whose messages are in memory at a time."""
        self._max_calls = max_calls
        self._num_calls = 0

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming:
            return handler
        is_bounded = handler_call_details.method == BOUNDED
        formats = (handler.request_deserializer, handler.response_serializer)
        if handler.response_streaming:
            assert handler.unary_stream is not None
            streaming = self._streaming(handler.unary_stream, is_bounded=is_bounded)
            return grpc.stream_stream_rpc_method_handler(streaming, *formats)
        assert handler.unary_unary is not None
        single = self._single(handler.unary_unary, is_bounded=is_bounded)
        return grpc.stream_unary_rpc_method_handler(single, *formats)

    def _single(self, behavior: Callable[..., Any], *, is_bounded: bool) -> Callable[..., Awaitable[Any]]:
        async def handle(_: object, context: Context) -> Any:
            with self._place(is_bounded=is_bounded):
                return await behavior(await _message(context), context)

        return handle

    def _streaming(self, behavior: Callable[..., Any], *, is_bounded: bool) -> Callable[..., AsyncIterator[Any]]:
        """A generator also for a behavior that writes by itself, as health's Watch."""

        async def handle(_: object, context: Context) -> AsyncIterator[Any]:
            with self._place(is_bounded=is_bounded):
                responses = behavior(await _message(context), context)
                if not inspect.isasyncgen(responses):
                    await responses
                    return
                async with aclosing(responses):
                    async for response in responses:
                        yield response

        return handle

    @contextmanager
    def _place(self, *, is_bounded: bool) -> Iterator[None]:
        if is_bounded and self._num_calls >= self._max_calls:
            raise ResourceExhausted(
                f"{self._num_calls} requests are here, at most {self._max_calls}; retry after 1000 ms",
                stage="orchestrator",
                retry_after_ms=1000,
            )
        self._num_calls += is_bounded
        try:
            yield
        finally:
            self._num_calls -= is_bounded


async def _message(context: Context) -> Any:
    """The call's one message. Raises InvalidArgument where there is none, or not one of its kind."""
    try:
        async with asyncio.timeout(READ_TIMEOUT_S):
            message = await context.read()
    except DecodeError:
        raise InvalidArgument("the message is not of the kind that this method takes") from None
    except TimeoutError:
        raise DeadlineExceeded(f"the message did not arrive in {READ_TIMEOUT_S:g} s") from None
    if message is grpc.aio.EOF:
        raise InvalidArgument("the call has no message")
    return message
