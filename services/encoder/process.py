"""The encoder service put together: card -> engine -> servicer -> server."""

from services.encoder.backends import choose_backend
from services.encoder.config import EncoderConfig
from services.encoder.engine import EncoderEngine
from services.encoder.servicer import SERVICE_NAME, EncoderServicer
from triptych.card import read_card
from triptych.serving.component import ComponentProcess
from triptych.serving.metrics import Metrics


def assemble(config: EncoderConfig, replica_id: str) -> tuple[ComponentProcess, EncoderEngine]:
    """The component in `config.checkpoint`, not yet loaded. Raises CheckpointError when its card does not do, and
    FailedPrecondition when the backend is not here."""
    card = read_card(config.checkpoint)
    backend = choose_backend(config, card)
    metrics = Metrics(config.service)
    engine = EncoderEngine(config, card, backend, metrics)
    servicer = EncoderServicer(engine, card, config)
    process = ComponentProcess(
        config,
        card,
        engine,
        servicer.add_to,
        SERVICE_NAME,
        placement=backend,
        metrics=metrics,
        replica_id=replica_id,
        backend=config.backend,
    )
    return process, engine


async def main(config: EncoderConfig, replica_id: str) -> int:
    """Serves until a signal comes; returns the exit code."""
    process, _ = assemble(config, replica_id)
    return await process.serve()
