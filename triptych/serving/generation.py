"""Which build of a component a replica is: its card, and whatever else may change what it answers or how fast."""

import hashlib
import json
from dataclasses import asdict, replace
from typing import Final

from triptych import __version__
from triptych.card import Card
from triptych.serving.config import ComponentConfig

# Settings that say where a replica stands, not what it is.
PLACE: Final = frozenset(
    {
        *("host", "port", "metrics_port", "health_port", "address_file"),
        *("checkpoint", "share", "drain_timeout_s", "insecure"),
        *("tls_dir", "tls_cert", "tls_key", "tls_ca", "tls_require_client_cert"),
        *("log_level", "log_format", "traces", "traces_ratio"),
    }
)


def generation_of(card: Card, config: ComponentConfig) -> str:
    """The start of the card's digest and four letters over the card itself, software version and settings: replicas of
    one Deployment have the same, an upgrade of any kind has another."""
    settings = {name: str(value) for name, value in config.model_dump().items() if name not in PLACE}
    told = json.dumps([__version__, settings, asdict(replace(card, exports={}))], sort_keys=True)
    return f"{card.generation}.{hashlib.sha256(told.encode()).hexdigest()[:4]}"
