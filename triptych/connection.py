"""The channel behind a client, opened anew when its certificates change. Calls on an older one go on to their end."""

import json
import threading
from collections.abc import Callable
from typing import Final, Generic, TypeVar

import grpc
import grpc.aio

from triptych.access import Access
from triptych.tls import Certificates, Pem, channel_credentials, name_options

MAX_MESSAGE_BYTES: Final = 64 * 2**20
_RETRIES: Final = {
    "name": [{"service": "triptych.v1.OrchestratorService"}],
    "retryPolicy": {
        "maxAttempts": 5,
        "initialBackoff": "0.2s",
        "maxBackoff": "1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    },
}
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.per_rpc_retry_buffer_size", MAX_MESSAGE_BYTES),  # a request larger than this is never retried
    ("grpc.service_config", json.dumps({"methodConfig": [_RETRIES]})),
)

C = TypeVar("C", grpc.Channel, grpc.aio.Channel)
Open = Callable[[str, Access, Pem | None], C]


class Connection(Generic[C]):
    """`channel()` for the next call; may be asked from several threads."""

    def __init__(self, address: str, access: Access, open_channel: "Open[C]") -> None:
        """Raises InvalidArgument when the certificates cannot be used."""
        self._address = address
        self._access = access
        self._open: Open[C] = open_channel
        self._certificates = Certificates(access.tls) if access.tls is not None else None
        self._lock = threading.Lock()
        self._pem: Pem | None = None
        self.opened: list[C] = []

    def channel(self) -> C:
        """The newest one. Older ones stay until all are closed, one for each change of certificates."""
        with self._lock:
            pem = self._certificates.current() if self._certificates else None
            if not self.opened or pem is not self._pem:
                self._pem = pem
                self.opened.append(self._open(self._address, self._access, pem))
            return self.opened[-1]


def open_blocking(address: str, access: Access, pem: Pem | None) -> grpc.Channel:
    if pem is None:
        return grpc.insecure_channel(address, options=_OPTIONS)
    return grpc.secure_channel(address, channel_credentials(pem), options=_options(access))


def open_async(address: str, access: Access, pem: Pem | None) -> grpc.aio.Channel:
    if pem is None:
        return grpc.aio.insecure_channel(address, options=_OPTIONS)
    return grpc.aio.secure_channel(address, channel_credentials(pem), options=_options(access))


def _options(access: Access) -> tuple[tuple[str, int | str], ...]:
    return (*_OPTIONS, *name_options(access.tls_server_name))
