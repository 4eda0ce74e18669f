"""A real orchestrator server in front of small components, all in this process."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest

from services.orchestrator.__main__ import assemble
from services.orchestrator.backends import Backends
from services.orchestrator.budget import RetryBudget
from services.orchestrator.config import OrchestratorConfig
from services.orchestrator.discovery.choice import choose_discovery
from services.orchestrator.door import door
from services.orchestrator.servicer import SERVICE_NAME
from tests.services.orchestrator.cards import message
from tests.services.orchestrator.fakes import FakeComponent, FakeDecoder, FakeEncoder, FakeLlm
from triptych.serving.metrics import Metrics
from triptych.serving.server import GrpcServer
from triptych.v1 import orchestrator_pb2 as pb
from triptych.v1 import (
    orchestrator_pb2_grpc,
)


class System:
    """An orchestrator in front of fakes. `start` it when the fakes are as the test wants them."""

    def __init__(self) -> None:
        self.encoders = [FakeEncoder()]
        self.llms = [FakeLlm()]
        self.decoders = [FakeDecoder()]
        self.settings: dict[str, Any] = {"poll_interval_ms": 20, "drain_timeout_s": 0}
        self.metrics = Metrics("orchestrator")
        self.now_s = 1_000_000.0  # what limits go by
        self._close: list[Callable[[], Awaitable[Any]]] = []

    encoder = property(lambda self: self.encoders[0])
    llm = property(lambda self: self.llms[0])
    decoder = property(lambda self: self.decoders[0])

    @property
    def components(self) -> list[FakeComponent]:
        return [*self.encoders, *self.llms, *self.decoders]

    async def start(self, *, started: bool = True) -> None:
        """Without `started` the components' ports stay closed."""
        for component in self.components:
            await component.start()
        if not started:
            for component in self.components:
                await component.stop()
        config = OrchestratorConfig(
            encoder_addresses=tuple(e.address for e in self.encoders),
            llm_addresses=tuple(c.address for c in self.llms),
            decoder_addresses=tuple(d.address for d in self.decoders),
            **self.settings,
        )
        self.backends = Backends(
            choose_discovery(config),
            config.poll_interval_ms,
            config.max_message_bytes,
            rules=config.trial_rules,
            silence_ms=config.silence_ms,
            silence_alone_ms=config.silence_alone_ms,
            budget=RetryBudget(config.retry_ratio, config.retry_burst),
        )
        servicer, embedder = assemble(config, self.backends, self.metrics)
        entry = door(config, lambda: self.now_s)
        server = GrpcServer(
            config,
            lambda s: orchestrator_pb2_grpc.add_OrchestratorServiceServicer_to_server(servicer, s),
            [SERVICE_NAME],
            metrics=self.metrics,
            interceptors=entry.around,
            inner_interceptors=entry.within,
            write_timeout_s=config.write_timeout_s,
        )
        self.address = await server.start()
        await self.backends.start()
        await server.set_ready()
        self.channel = grpc.aio.insecure_channel(self.address)
        self.stub = orchestrator_pb2_grpc.OrchestratorServiceStub(self.channel)
        self._close = [self.channel.close, lambda: server.drain(0), self.backends.stop]
        self._embedder = embedder

    async def stop(self) -> None:
        """May be repeated."""
        was_running = bool(self._close)
        while self._close:
            await self._close.pop(0)()
        for component in self.components:
            await component.stop()
        if was_running:
            self._embedder.close()

    def request(self, *contents: str | bytes, task: str = "AUTO", **fields: Any) -> pb.RespondRequest:
        return pb.RespondRequest(messages=[message("USER", *contents)], task=f"TASK_{task}", **fields)

    async def respond(self, request: pb.RespondRequest, **options: Any) -> list[pb.RespondResponse]:
        return [response async for response in self.stub.Respond(request, **options)]

    async def refused(self, request: pb.RespondRequest, **options: Any) -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.respond(request, **options)
        return caught.value

    def counted(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"triptych_orchestrator_{name}", labels) or 0.0
