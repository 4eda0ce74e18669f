"""The life of one gRPC process: listen, become ready, serve, drain, leave with an exit code."""

import asyncio
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from triptych import traces
from triptych.errors import InvalidArgument, TriptychError
from triptych.serving.calls import Calls
from triptych.serving.config import ServingConfig
from triptych.serving.interceptors import (
    CallInterceptor,
    ErrorInterceptor,
    GateInterceptor,
    RequestIdInterceptor,
    TraceInterceptor,
)
from triptych.serving.metrics import Metrics
from triptych.serving.options import server_options
from triptych.serving.orchestrators import Orchestrators
from triptych.serving.transport import TransportInterceptor
from triptych.serving.writing import WriteInterceptor
from triptych.tls import server_credentials

log = logging.getLogger(__name__)

CHAIN: Final = "chain"  # health: ready, and an orchestrator has found partners for it
FLUSH_S: Final = 0.1  # for the last bytes; health watchers never end by themselves
CLEANUP_S: Final = 2.0  # what a handler gets for its `finally` clauses
MAX_PROBES: Final = 16  # at a time, on the port that asks for no certificate
EXIT_OK: Final = 0
EXIT_NOT_READY: Final = 1
EXIT_CANNOT_LISTEN: Final = 2

AddServices = Callable[[grpc.aio.Server], None]
Hook = Callable[[], Awaitable[None]]


class CannotListen(Exception):
    """A port is taken, the host is not this machine's, the certificates or the address file cannot be used."""


class GrpcServer:
    """A listening server with health, reflection, limits and interceptors. NOT_SERVING until `set_ready`."""

    def __init__(
        self,
        config: ServingConfig,
        add_services: AddServices,
        service_names: Sequence[str],
        *,
        metrics: Metrics | None = None,
        replica_id: str = "",
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        inner_interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        orchestrators: Orchestrators | None = None,
        write_timeout_s: float | None = None,
    ) -> None:
        """`interceptors` are around a call, and what they raise is translated and counted like what a servicer raises;
        `inner_interceptors` are nearer to the handler, and see its responses before they are written. What
        `orchestrators` say becomes the health of CHAIN, and draining waits for the requests they still have. Callers
        who leave a message unread for `write_timeout_s` are left."""
        self._config = config
        self._metrics = metrics or Metrics(config.service)
        self._metrics.gauge("calls_running", "calls under way", lambda: self._calls.num_running)
        self._calls = Calls()
        self._health = health.aio.HealthServicer()
        self._names = ("", *service_names)
        self._orchestrators = orchestrators
        if orchestrators is not None:
            orchestrators.on_change = self._set_chained
        self._stopping = asyncio.Lock()
        self.address = ""
        self._server = grpc.aio.server(
            interceptors=(
                RequestIdInterceptor(),
                TraceInterceptor(),
                CallInterceptor(self._calls, self._metrics),
                ErrorInterceptor(config.service, replica_id),
                GateInterceptor(self._calls),
                *interceptors,
                WriteInterceptor(write_timeout_s),
                *inner_interceptors,
                TransportInterceptor(self._metrics),
            ),
            options=server_options(config),
        )
        add_services(self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._probed = _health_server(self._health) if config.health_port is not None else None
        listed = (*service_names, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(listed, self._server)

    async def start(self) -> str:
        """Listens and returns "host:port". Raises CannotListen."""
        for name in self._names:
            await self._health.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
        if self._orchestrators is not None:
            await self._set_chained(False)
        host = f"[{self._config.host}]" if ":" in self._config.host else self._config.host
        try:
            port = self._add_port(f"{host}:{self._config.port}")
        except RuntimeError as error:
            reason = "the port is taken, or the host is no address of this machine"
            raise CannotListen(f"cannot listen on {host}:{self._config.port}: {reason}") from error
        if self._config.metrics_port is not None:
            metrics_port = self._listen_for_scrapes(self._config.metrics_port)
            log.info("metrics", extra={"address": f"{host}:{metrics_port}"})
        if self._config.health_port is not None:
            await self._listen_for_probes(host, self._config.health_port)
        await self._server.start()
        self.address = f"{host}:{port}"
        log.info("listening", extra={"address": self.address})
        if self._config.address_file is not None:
            _write_whole(self._config.address_file, self.address)
        return self.address

    async def set_ready(self) -> None:
        """Health turns SERVING, and calls are let in."""
        self._calls.closed_because = ""
        for name in self._names:
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def drain(self, timeout_s: float) -> None:
        """Health turns NOT_SERVING, new calls are refused (once no orchestrator has a request left that may make one),
        running ones may finish; all in `timeout_s`. May be repeated."""
        async with self._stopping:  # gRPC does not survive two stops at a time
            if self._calls.closed_because != "stopped":
                await self._drain(timeout_s)

    async def _drain(self, timeout_s: float) -> None:
        ends_s = time.monotonic() + timeout_s
        is_awaited = self._orchestrators is not None and not self._calls.closed_because and timeout_s > 0
        self._calls.closed_because = "" if is_awaited else "draining"
        await self._health.enter_graceful_shutdown()
        log.info("draining", extra={"calls": self._calls.num_running, "timeout_s": timeout_s})
        if self._orchestrators is not None and is_awaited:
            await self._orchestrators.wait_released(timeout_s)
            self._calls.closed_because = "draining"
        if not await self._calls.wait_idle(max(0.0, ends_s - time.monotonic())):
            log.warning("calls cut off", extra={"calls": self._calls.num_running})
            self._calls.cut_off()
            await self._calls.wait_idle(CLEANUP_S)
        await self._server.stop(FLUSH_S)
        if self._probed is not None:
            await self._probed.stop(FLUSH_S)
        self._calls.closed_because = "stopped"
        if self._config.address_file is not None and self.address:  # else it is another's, who has the port
            self._config.address_file.unlink(missing_ok=True)

    async def _set_chained(self, is_chained: bool) -> None:
        status = health_pb2.HealthCheckResponse
        await self._health.set(CHAIN, status.SERVING if is_chained else status.NOT_SERVING)

    def _add_port(self, address: str) -> int:
        files = self._config.tls
        if files is None:
            return self._server.add_insecure_port(address)
        try:
            credentials = server_credentials(files, require_client_cert=self._config.tls_require_client_cert)
        except InvalidArgument as error:
            raise CannotListen(f"cannot listen on {address}: {error}") from error
        return self._server.add_secure_port(address, credentials)

    async def _listen_for_probes(self, host: str, port: int) -> None:
        assert self._probed is not None
        try:
            bound = self._probed.add_insecure_port(f"{host}:{port}")
        except RuntimeError as error:
            raise CannotListen(f"cannot listen for probes on {host}:{port}: the port is taken") from error
        await self._probed.start()
        log.info("health", extra={"address": f"{host}:{bound}"})

    def _listen_for_scrapes(self, port: int) -> int:
        try:
            return self._metrics.listen(self._config.host, port)
        except OSError as error:
            raise CannotListen(f"cannot listen for metrics on {self._config.host}:{port}: {error.strerror}") from error


async def serve(
    config: ServingConfig,
    add_services: AddServices,
    service_names: Sequence[str],
    *,
    on_ready: Hook | None = None,
    on_stop: Hook | None = None,
    metrics: Metrics | None = None,
    replica_id: str = "",
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
    inner_interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
    orchestrators: Orchestrators | None = None,
    write_timeout_s: float | None = None,
) -> int:
    """Serves until SIGTERM or SIGINT, drains, and returns the exit code: 0, 1 when `on_ready` (model load, probes)
    raised a TriptychError, 2 when a port is taken. `on_stop` runs last, in every case. A second signal kills.
    """
    server = GrpcServer(
        config,
        add_services,
        service_names,
        metrics=metrics,
        replica_id=replica_id,
        interceptors=interceptors,
        inner_interceptors=inner_interceptors,
        orchestrators=orchestrators,
        write_timeout_s=write_timeout_s,
    )
    try:
        await server.start()
        await _ready_until_signal(server, on_ready)
        await server.drain(config.drain_timeout_s)
    except TriptychError as error:
        return _failed(config.service, error, EXIT_NOT_READY)
    except CannotListen as error:
        return _failed(config.service, error, EXIT_CANNOT_LISTEN)
    finally:
        await server.drain(0)
        if on_stop is not None:
            await on_stop()
        log.info("stopped")
    return EXIT_OK


def run(main: Coroutine[Any, Any, int], config: ServingConfig, replica_id: str = "") -> int:
    """`asyncio.run` for `__main__`, traced where the settings say so: a TriptychError on the way to `serve` becomes one
    line and exit code 1."""
    try:
        traces.configure(config.traces, config.service, replica_id, config.traces_ratio)
        return asyncio.run(main)
    except TriptychError as error:
        return _failed(config.service, error, EXIT_NOT_READY)
    finally:
        main.close()
        traces.close()


async def _ready_until_signal(server: GrpcServer, on_ready: Hook | None) -> None:
    """Returns at the first signal, also while the model still loads. Raises what `on_ready` raises."""
    async with _signalled() as signalled:
        stopping = asyncio.create_task(signalled.wait())
        becoming = asyncio.create_task(_become_ready(server, on_ready))
        try:
            await asyncio.wait((stopping, becoming), return_when=asyncio.FIRST_COMPLETED)
            if becoming.done():
                becoming.result()
                await stopping
        finally:
            for task in (stopping, becoming):
                task.cancel()
            await asyncio.wait((stopping, becoming))


async def _become_ready(server: GrpcServer, on_ready: Hook | None) -> None:
    started = time.perf_counter()
    if on_ready is not None:
        await on_ready()
    await server.set_ready()
    log.info("ready", extra={"duration_ms": round((time.perf_counter() - started) * 1000)})


@asynccontextmanager
async def _signalled() -> AsyncIterator[asyncio.Event]:
    """An event that SIGTERM and SIGINT set. Outside, both have their usual effect."""
    event = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, event.set)
    try:
        yield event
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _health_server(servicer: health.aio.HealthServicer) -> grpc.aio.Server:
    """For a kubelet, whose probes know no TLS: it learns whether we serve, and nothing else is there to be called."""
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),), maximum_concurrent_rpcs=MAX_PROBES)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    return server


def _write_whole(path: Path, text: str) -> None:
    """Readers see nothing or all of it."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise CannotListen(f"cannot write the address to {path}: {error.strerror}") from error


def _failed(service: str, error: Exception, code: int) -> int:
    print(f"{service}: {error}", file=sys.stderr)
    return code
