"""The encoder service put together: card -> engine -> servicer -> server."""

from services.encoder.config import EncoderConfig
from services.encoder.engine import EncoderEngine
from services.encoder.servicer import SERVICE_NAME, EncoderServicer
from triptych.card import read_card
from triptych.models.placement import Placement, prepare_torch
from triptych.serving.component import ComponentProcess
from triptych.serving.metrics import Metrics


def assemble(config: EncoderConfig, replica_id: str) -> tuple[ComponentProcess, EncoderEngine]:
    """The component in `config.checkpoint`, not yet loaded. Raises CheckpointError when its card does not do."""
    card = read_card(config.checkpoint)
    placement = Placement.choose(config.device, config.dtype)
    metrics = Metrics(config.service)
    engine = EncoderEngine(config, card, placement, metrics)
    servicer = EncoderServicer(engine, card, config)
    process = ComponentProcess(
        config, card, engine, servicer.add_to, SERVICE_NAME, placement=placement, metrics=metrics, replica_id=replica_id
    )
    return process, engine


async def main(config: EncoderConfig, replica_id: str) -> int:
    """Serves until a signal comes; returns the exit code."""
    prepare_torch(config.num_threads)
    process, _ = assemble(config, replica_id)
    return await process.serve()
