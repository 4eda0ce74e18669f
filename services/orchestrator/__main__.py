"""python -m services.orchestrator: config -> parts -> serve."""

import sys

import grpc

from services.orchestrator.admission import Admission
from services.orchestrator.backends import Backends
from services.orchestrator.budget import RetryBudget
from services.orchestrator.cache import EmbeddingCache
from services.orchestrator.config import OrchestratorConfig
from services.orchestrator.discovery.choice import choose_discovery
from services.orchestrator.door import door
from services.orchestrator.embedder import Embedder
from services.orchestrator.metrics import OrchestratorMetrics
from services.orchestrator.pipeline import Pipeline
from services.orchestrator.servicer import SERVICE_NAME, OrchestratorServicer
from triptych.serving.logs import configure_logs
from triptych.serving.metrics import Metrics
from triptych.serving.server import run, serve
from triptych.v1 import orchestrator_pb2_grpc


async def main(config: OrchestratorConfig) -> int:
    """Serves also while components are missing: their absence is answered with UNAVAILABLE naming the stage."""
    metrics = Metrics(config.service)
    backends = Backends(
        choose_discovery(config),
        config.poll_interval_ms,
        config.max_message_bytes,
        config.component_tls,
        rules=config.trial_rules,
        silence_ms=config.silence_ms,
        silence_alone_ms=config.silence_alone_ms,
        budget=RetryBudget(config.retry_ratio, config.retry_burst),
    )
    servicer, embedder = assemble(config, backends, metrics)
    entry = door(config)

    def add_services(server: grpc.aio.Server) -> None:
        orchestrator_pb2_grpc.add_OrchestratorServiceServicer_to_server(servicer, server)

    async def stop() -> None:
        await backends.stop()
        embedder.close()

    return await serve(
        config,
        add_services,
        [SERVICE_NAME],
        on_ready=backends.start,
        on_stop=stop,
        metrics=metrics,
        interceptors=entry.around,
        inner_interceptors=entry.within,
        write_timeout_s=config.write_timeout_s,
    )


def assemble(config: OrchestratorConfig, backends: Backends, metrics: Metrics) -> tuple[OrchestratorServicer, Embedder]:
    """The servicer and what must be closed after it."""
    admission = Admission(config.max_num_requests, config.max_queue_size, config.max_admitted_bytes)
    cache = EmbeddingCache(config.embedding_cache_bytes)
    counted = OrchestratorMetrics(metrics, admission, cache, backends)
    embedder = Embedder(
        cache,
        counted,
        max_pixels=config.max_pixels,
        max_batch_bytes=config.max_message_bytes // 2,
        max_decoded_bytes=config.max_decoded_bytes,
        num_threads=config.num_image_threads,
    )
    pipeline = Pipeline(backends, embedder, admission, counted)
    return OrchestratorServicer(config, backends, pipeline, counted), embedder


if __name__ == "__main__":
    settings = OrchestratorConfig.from_args(sys.argv[1:])
    configure_logs(settings)
    sys.exit(run(main(settings), settings))
