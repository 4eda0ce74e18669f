"""How long a call may wait for its caller: one who stops reading must not keep what others need."""

from __future__ import annotations  # grpc's classes are generic only in their stubs

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final

import grpc
import grpc.aio

from triptych.errors import Cancelled
from triptych.serving.interceptors import Behavior, Context, Continuation, Handler, changed

STATUS_S: Final = 5.0  # then the call is over for us; its status goes out when the caller reads what is before it


class WriteInterceptor(grpc.aio.ServerInterceptor):
    """Turns handlers that yield into ones that write. A message that waits for longer than `timeout_s`, or cannot be
    written at all, ends the call with Cancelled, and the handler's generator is closed at once."""

    def __init__(self, timeout_s: float | None) -> None:
        """None: messages wait as long as the caller stays."""
        self._timeout_s = timeout_s

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        return handler and changed(handler, self._writing if handler.response_streaming else _answering)

    def _writing(self, behavior: Behavior) -> Callable[..., Awaitable[None]]:
        """A coroutine, not a generator: a call that is cancelled between two messages then closes the handler's
        generator at once, where a suspended generator would wait for the garbage collector."""

        async def handle(request: Any, context: Context) -> None:
            async with _status_limited(context):
                responses = behavior(request, context)
                del request  # as in interceptors.py
                if not inspect.isasyncgen(responses):
                    await responses
                    return
                async with aclosing(responses):
                    async for response in responses:
                        await self._write(response, context)

        return handle

    async def _write(self, response: Any, context: Context) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await context.write(response)
        except TimeoutError:
            raise Cancelled(f"the caller left a message unread for {self._timeout_s:g} s") from None
        except grpc.aio.InternalError:  # core could not send it; what it says is nothing but that
            raise Cancelled("the caller went away") from None


def _answering(behavior: Behavior) -> Callable[..., Awaitable[Any]]:
    async def handle(request: Any, context: Context) -> Any:
        async with _status_limited(context):
            answering = behavior(request, context)
            del request
            return await answering

    return handle


@asynccontextmanager
async def _status_limited(context: Context) -> AsyncIterator[None]:
    """gRPC sends the status after the handler has ended, and waits for it: behind messages that nobody reads for ever,
    with the request in memory."""
    task = asyncio.current_task()
    assert task is not None, "gRPC runs every handler in a task"
    try:
        yield
    finally:
        timer = asyncio.get_running_loop().call_later(STATUS_S, task.cancel)
        context.add_done_callback(lambda _: timer.cancel())  # type: ignore[arg-type]
