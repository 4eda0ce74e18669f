"""How `triptych upgrade` reaches the `triptych up` of the same user: a gRPC service on a Unix socket."""

import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc

from triptych import status
from triptych.errors import FailedPrecondition, PermissionDenied, TriptychError, Unavailable
from triptych.v1 import supervisor_pb2 as pb
from triptych.v1 import supervisor_pb2_grpc

RunUpgrade = Callable[[pb.UpgradeRequest, Callable[[], bool]], Iterator[str]]


class Control(supervisor_pb2_grpc.SupervisorServiceServicer):
    """Serves between `start` and `stop`. `run` gets the request, and a way to ask whether the caller has gone."""

    def __init__(self, run: RunUpgrade) -> None:
        self._run = run
        self._server: grpc.Server | None = None
        self._socket: Path | None = None

    def start(self, socket: Path) -> None:
        """Raises FailedPrecondition when it cannot listen there."""
        socket.unlink(missing_ok=True)
        server = grpc.server(ThreadPoolExecutor(4, thread_name_prefix="control"))
        supervisor_pb2_grpc.add_SupervisorServiceServicer_to_server(self, server)
        try:
            server.add_insecure_port(f"unix:{socket}")
        except RuntimeError as error:
            raise FailedPrecondition(f"cannot listen on {socket}: {error}") from error
        server.start()
        self._server, self._socket = server, socket

    def stop(self) -> None:
        if self._server is not None and self._socket is not None:
            self._server.stop(None).wait()
            self._socket.unlink(missing_ok=True)
            self._server = None

    def Upgrade(self, request: pb.UpgradeRequest, context: Any) -> Iterator[pb.UpgradeResponse]:
        try:
            with closing(self._run(request, lambda: not context.is_active())) as lines:  # type: ignore[type-var]
                for line in lines:
                    yield pb.UpgradeResponse(progress=line)
        except TriptychError as error:
            context.set_trailing_metadata(status.trailing_metadata(error))
            context.abort(grpc.StatusCode[error.code], str(error))


def ask(address: str, request: pb.UpgradeRequest) -> Iterator[str]:
    """Progress of an upgrade of the system whose orchestrator listens at `address`. Raises what went wrong."""
    socket = socket_of(address)
    if not socket.exists():
        raise Unavailable(f"no `triptych up` of yours runs at {address}: {socket} is not there")
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        try:
            for response in supervisor_pb2_grpc.SupervisorServiceStub(channel).Upgrade(request):
                yield response.progress
        except grpc.RpcError as error:
            raise status.error_from_rpc(error) from None  # type: ignore[arg-type]


def socket_of(address: str) -> Path:
    """By the orchestrator's port, in a folder that is the user's alone. Raises PermissionDenied when it is not."""
    folder = Path(tempfile.gettempdir()) / f"triptych-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    stat = folder.lstat()
    if folder.is_symlink() or stat.st_uid != os.getuid() or stat.st_mode & 0o077:
        raise PermissionDenied(f"{folder} must be a folder that you own and nobody else can enter")
    return folder / f"{address.rpartition(':')[2]}.sock"
