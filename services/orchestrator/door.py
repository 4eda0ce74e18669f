"""What a call passes, in this order: who calls, what that caller has left, whether there is room for a message."""

import time
from collections.abc import Callable
from typing import NamedTuple

import grpc.aio

from services.orchestrator.authentication import AuthenticationInterceptor
from services.orchestrator.config import OrchestratorConfig
from services.orchestrator.intake import SPARE, IntakeInterceptor
from services.orchestrator.key_file import KeyFile
from services.orchestrator.quota import QuotaInterceptor
from services.orchestrator.tokens import Tokens


class Door(NamedTuple):
    """As the server takes them."""

    around: tuple[grpc.aio.ServerInterceptor, ...]
    within: tuple[grpc.aio.ServerInterceptor, ...]


def door(config: OrchestratorConfig, now_s: Callable[[], float] = time.time) -> Door:
    """Asks for keys or tokens where the settings name some. Raises InvalidArgument when the key file cannot be read."""
    intake = IntakeInterceptor(config.max_num_requests + config.max_queue_size + SPARE)
    if config.keys_file is None and config.token_rules is None:
        return Door((), (intake,))
    keys = KeyFile(config.keys_file) if config.keys_file is not None else None
    tokens = Tokens(config.token_rules) if config.token_rules is not None else None
    return Door((AuthenticationInterceptor(config, keys, tokens),), (QuotaInterceptor(now_s), intake))
