"""The decoder service put together: card -> engine -> servicer -> server."""

import torch
from transformers.utils import logging as transformers_logging

from services.decoder.config import DecoderConfig
from services.decoder.engine import DecoderEngine
from services.decoder.servicer import SERVICE_NAME, DecoderServicer
from triptych.card import read_card
from triptych.models.placement import Placement
from triptych.serving.component import ComponentProcess
from triptych.serving.metrics import Metrics


def assemble(config: DecoderConfig, replica_id: str) -> tuple[ComponentProcess, DecoderEngine]:
    """The component in `config.checkpoint`, not yet loaded. Raises CheckpointError when its card does not do."""
    card = read_card(config.checkpoint)
    placement = Placement.choose(config.device, config.dtype)
    metrics = Metrics(config.service)
    engine = DecoderEngine(config, card, placement, metrics)
    servicer = DecoderServicer(engine, card)
    process = ComponentProcess(
        config,
        card,
        engine,
        servicer.add_to,
        SERVICE_NAME,
        device=placement.device,
        dtype=placement.dtype,
        replica_id=replica_id,
        metrics=metrics,
    )
    return process, engine


async def main(config: DecoderConfig, replica_id: str) -> int:
    """Serves until a signal comes; returns the exit code."""
    transformers_logging.disable_progress_bar()  # stderr is for log lines
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    process, _ = assemble(config, replica_id)
    return await process.serve()
