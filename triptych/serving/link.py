"""A channel that is kept for long: opened anew when the certificates change."""

import asyncio
from typing import Final

import grpc.aio

from triptych.serving.channels import open_channel
from triptych.tls import Certificates

RETIRE_S: Final = 3600.0  # what calls on the old channel get to end


class Link:
    """`channel` for the next call. Calls that run while certificates change end on the channel they began on."""

    def __init__(
        self, address: str, max_message_bytes: int, certificates: Certificates | None = None, server_name: str = ""
    ) -> None:
        """Connects when first used. `certificates` None: plaintext."""
        self._address = address
        self._max_message_bytes = max_message_bytes
        self._certificates = certificates
        self._server_name = server_name
        self._pem = certificates.current() if certificates else None
        self._retiring: set[asyncio.Task[None]] = set()
        self.channel = self._open()

    def renew(self) -> None:
        """Another channel if the files changed; needs the running event loop."""
        pem = self._certificates.current() if self._certificates else None
        if pem is self._pem:
            return
        self._pem = pem
        old, self.channel = self.channel, self._open()
        task = asyncio.create_task(old.close(RETIRE_S))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def close(self) -> None:
        """Cancels what runs, on old channels too."""
        tasks = list(self._retiring)
        for task in tasks:
            task.cancel()
        await asyncio.gather(self.channel.close(), *tasks, return_exceptions=True)

    def _open(self) -> grpc.aio.Channel:
        return open_channel(self._address, self._max_message_bytes, self._pem, self._server_name)
