"""A process that serves one component: its own service and Describe, ready once the golden probes have passed.

Health has two answers beside those for its services: "" is SERVING once the probes have passed, "chain" once an
orchestrator has also found partners that it fits (and no fault in it). Kubernetes' readiness asks for "chain".
"""

from collections.abc import Callable
from typing import Protocol

import grpc

from triptych.card import Card
from triptych.serving import describe
from triptych.serving.batching import Load
from triptych.serving.config import ComponentConfig
from triptych.serving.generation import generation_of
from triptych.serving.metrics import Metrics
from triptych.serving.orchestrators import Orchestrators
from triptych.serving.server import GrpcServer, serve


class Engine(Protocol):
    """What stands behind a component's servicer."""

    @property
    def load(self) -> Load: ...

    async def start(self) -> float:
        """Loads the component and returns the worst cosine over its probes; raises CheckpointError or ProbeError."""

    async def stop(self) -> None: ...


class Placement(Protocol):
    """Where and how precisely the component runs, by the names that Describe shows."""

    @property
    def device(self) -> str: ...

    @property
    def dtype(self) -> str: ...


class ComponentProcess:
    """`register` adds the component's own servicer, known as `service_name`, to a server."""

    def __init__(
        self,
        config: ComponentConfig,
        card: Card,
        engine: Engine,
        register: Callable[[grpc.aio.Server], None],
        service_name: str,
        *,
        placement: Placement,
        metrics: Metrics,
        replica_id: str,
        backend: str = "torch",
    ) -> None:
        self._config = config
        self._engine = engine
        self._register = register
        self._names = (service_name, describe.SERVICE_NAME)
        self._replica_id = replica_id
        self._metrics = metrics
        generation = generation_of(card, config)
        metrics.show(card, generation)
        self._probe_cosine = metrics.gauge("probe_cosine", "worst cosine over the golden probes; 0 before they ran")
        self._orchestrators = Orchestrators()
        self._describe = describe.ComponentServicer(
            card,
            lambda: engine.load,
            replica_id,
            backend,
            placement.device,
            placement.dtype,
            share=config.share,
            generation=generation,
            orchestrators=self._orchestrators,
        )

    async def serve(self) -> int:
        """Until a signal comes; returns the exit code."""
        return await serve(
            self._config,
            self._add_services,
            self._names,
            on_ready=self._load,
            on_stop=self._engine.stop,
            metrics=self._metrics,
            replica_id=self._replica_id,
            orchestrators=self._orchestrators,
        )

    async def start(self) -> GrpcServer:
        """A ready server in this process. Whoever starts it drains it and stops the engine."""
        server = GrpcServer(
            self._config,
            self._add_services,
            self._names,
            metrics=self._metrics,
            replica_id=self._replica_id,
            orchestrators=self._orchestrators,
        )
        await server.start()
        await self._load()
        await server.set_ready()
        return server

    def _add_services(self, server: grpc.aio.Server) -> None:
        self._register(server)
        self._describe.add_to(server)

    async def _load(self) -> None:
        self._describe.probe_cosine = await self._engine.start()
        self._probe_cosine.set(self._describe.probe_cosine)
