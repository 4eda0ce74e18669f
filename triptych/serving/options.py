"""What gRPC is told about connections: the same keepalive on both ends, and a server's bounds."""

from typing import Final

from triptych.serving.config import ServingConfig

KEEPALIVE_S: Final = 30  # without a word; servers allow three times as many pings, for clocks that differ
KEEPALIVE_TIMEOUT_S: Final = 10  # without an answer to the ping: the connection is lost
MAX_CONNECTION_AGE_S: Final = 3600  # with TLS: certificates are looked at again; running calls go on to their end


def keepalive_options() -> tuple[tuple[str, int], ...]:
    """For either end: a connection whose other end is gone without a word is noticed, and its calls end."""
    timeout_ms = round(KEEPALIVE_TIMEOUT_S * 1000)
    return (
        ("grpc.keepalive_time_ms", round(KEEPALIVE_S * 1000)),
        ("grpc.keepalive_timeout_ms", timeout_ms),
        ("grpc.http2.ping_timeout_ms", timeout_ms),  # a minute otherwise, whatever keepalive says
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    )


def server_options(config: ServingConfig) -> tuple[tuple[str, int], ...]:
    return (
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_send_message_length", config.max_message_bytes),
        ("grpc.so_reuseport", 0),  # a second server on the same port must fail, not share it
        ("grpc.http2.min_ping_interval_without_data_ms", round(KEEPALIVE_S * 1000) // 3),
        *keepalive_options(),
        *((("grpc.max_connection_age_ms", MAX_CONNECTION_AGE_S * 1000),) if config.tls else ()),
    )
