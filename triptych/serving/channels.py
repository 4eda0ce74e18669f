"""Client channels of our processes: message limits, keepalive, and request id and trace on every call."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc

from triptych import traces
from triptych.serving import request_id
from triptych.serving.options import keepalive_options
from triptych.tls import Pem, channel_credentials, name_options

CONNECT_BACKOFF_MS: Final = (100, 1_000)  # first and longest wait before connecting again
CONNECT_TIMEOUT_MS: Final = 5_000


def open_channel(
    address: str, max_message_bytes: int, pem: Pem | None = None, server_name: str = ""
) -> grpc.aio.Channel:
    """Connects when first used, and again whenever the server comes back. Limits are set on both ends: a projected
    image alone is above gRPC's default of 4 MiB. With `pem` TLS: the certificate must be for
    `server_name` where given, for the address's host otherwise. Without, plaintext."""
    options: tuple[tuple[str, int | str], ...] = (
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        *keepalive_options(),
        ("grpc.initial_reconnect_backoff_ms", CONNECT_BACKOFF_MS[0]),
        ("grpc.max_reconnect_backoff_ms", CONNECT_BACKOFF_MS[1]),
        ("grpc.min_reconnect_backoff_ms", CONNECT_TIMEOUT_MS),
    )
    if pem is not None:
        options = (*options, *name_options(server_name))
        return grpc.aio.secure_channel(address, channel_credentials(pem), options=options, interceptors=_INTERCEPTORS)
    return grpc.aio.insecure_channel(address, options=options, interceptors=_INTERCEPTORS)


def _with_context(details: grpc.aio.ClientCallDetails) -> grpc.aio.ClientCallDetails:
    request = request_id.current.get()
    headers = traces.current().headers()
    if not request and not headers:
        return details
    if request:
        headers = ((request_id.KEY, request), *headers)
    metadata = grpc.aio.Metadata(*(details.metadata or ()), *headers)
    return grpc.aio.ClientCallDetails(
        details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
    )


Continuation = Callable[[grpc.aio.ClientCallDetails, Any], Awaitable[Any]]


class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self, continuation: Continuation, client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(_with_context(client_call_details), request)


class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(
        self, continuation: Continuation, client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(_with_context(client_call_details), request)


class _StreamStream(grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(
        self, continuation: Continuation, client_call_details: grpc.aio.ClientCallDetails, request_iterator: Any
    ) -> Any:
        return await continuation(_with_context(client_call_details), request_iterator)


_INTERCEPTORS: Final = (_UnaryUnary(), _UnaryStream(), _StreamStream())
