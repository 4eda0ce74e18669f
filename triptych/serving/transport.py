"""How many bytes a server's messages take, counted where they are parsed and written: nothing is serialized twice."""

from __future__ import annotations  # grpc's classes are generic only in their stubs

from collections.abc import Callable
from typing import Any, Final

import grpc
from prometheus_client import Counter

from triptych.serving.interceptors import ALWAYS_OPEN, Continuation, Handler
from triptych.serving.metrics import Metrics

DIRECTIONS: Final = ("in", "out")


class TransportInterceptor(grpc.aio.ServerInterceptor):
    """Innermost: it replaces the handler's serializers. Health checks and the like are not counted."""

    def __init__(self, metrics: Metrics) -> None:
        text = "messages received (in) and sent (out), tensors included, before compression"
        self._bytes = metrics.counter("transport_bytes", text, ["method", "direction"])

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        method = str(handler_call_details.method)
        if handler is None or method.startswith(ALWAYS_OPEN):
            return handler
        incoming, outgoing = (self._bytes.labels(method, direction) for direction in DIRECTIONS)
        kinds = (handler.request_streaming, handler.response_streaming)
        name = "_".join("stream" if streams else "unary" for streams in kinds)
        made: Handler = getattr(grpc, f"{name}_rpc_method_handler")(
            getattr(handler, name),
            _counting_in(handler.request_deserializer, incoming),
            _counting_out(handler.response_serializer, outgoing),
        )
        return made


def _counting_in(parse: Callable[[bytes], Any] | None, counter: Counter) -> Callable[[bytes], Any]:
    assert parse is not None, "generated servicers name their parsers"

    def counted(data: bytes) -> Any:
        counter.inc(len(data))
        return parse(data)

    return counted


def _counting_out(write: Callable[[Any], bytes] | None, counter: Counter) -> Callable[[Any], bytes]:
    assert write is not None, "generated servicers name their writers"

    def counted(message: Any) -> bytes:
        data = write(message)
        counter.inc(len(data))
        return data

    return counted
