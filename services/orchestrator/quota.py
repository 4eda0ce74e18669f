"""Each request is taken from its caller's allowance, and given back where the service did not begin to answer it."""

from __future__ import annotations  # grpc's classes are generic only in their stubs

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, Final

import grpc

from services.orchestrator.allowance import Allowances
from services.orchestrator.authentication import known
from triptych.errors import ResourceExhausted, Unavailable
from triptych.serving.interceptors import Context, Continuation, Handler

COUNTED: Final = "/triptych.v1.OrchestratorService/Respond"


class QuotaInterceptor(grpc.aio.ServerInterceptor):
    """RESOURCE_EXHAUSTED when a caller's requests are spent. Between AuthenticationInterceptor, which says whose they
    are, and IntakeInterceptor, which makes a stream of every call."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._allowances = Allowances(now_s)

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method != COUNTED:
            return handler
        assert handler.stream_stream is not None
        counted = self._counted(handler.stream_stream)
        return grpc.stream_stream_rpc_method_handler(counted, handler.request_deserializer, handler.response_serializer)

    def _counted(self, behavior: Callable[..., Any]) -> Callable[..., AsyncIterator[Any]]:
        async def handle(requests: object, context: Context) -> AsyncIterator[Any]:
            caller = known.get()
            day = self._allowances.take(caller.id, caller.name, caller.per_minute, caller.per_day)
            has_begun = False
            try:
                async with aclosing(behavior(requests, context)) as responses:
                    async for response in responses:
                        has_begun = True
                        yield response
            except (Unavailable, ResourceExhausted) as error:
                if not has_begun and _is_ours(error):
                    self._allowances.give_back(caller.id, day)
                raise

        return handle


def _is_ours(error: Unavailable | ResourceExhausted) -> bool:
    """An outage, which clients try again by themselves, or a full queue of the orchestrator's; a component that is full
    has been given work by then."""
    return isinstance(error, Unavailable) or error.stage == "orchestrator"
