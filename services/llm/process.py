"""The llm service put together: card -> engine -> servicer -> server."""

from services.llm.config import LlmConfig
from services.llm.engine import LlmEngine
from services.llm.servicer import SERVICE_NAME, LlmServicer
from triptych.card import read_card
from triptych.models.placement import Placement, prepare_torch
from triptych.serving.component import ComponentProcess
from triptych.serving.metrics import Metrics


def assemble(config: LlmConfig, replica_id: str) -> tuple[ComponentProcess, LlmEngine]:
    """The component in `config.checkpoint`, not yet loaded. Raises CheckpointError when its card does not do."""
    card = read_card(config.checkpoint)
    placement = Placement.choose(config.device, config.dtype)
    metrics = Metrics(config.service)
    engine = LlmEngine(config, card, placement, metrics)
    servicer = LlmServicer(engine, card, config)
    process = ComponentProcess(
        config, card, engine, servicer.add_to, SERVICE_NAME, placement=placement, metrics=metrics, replica_id=replica_id
    )
    return process, engine


async def main(config: LlmConfig, replica_id: str) -> int:
    """Serves until a signal comes; returns the exit code."""
    prepare_torch(config.num_threads)
    process, _ = assemble(config, replica_id)
    return await process.serve()
