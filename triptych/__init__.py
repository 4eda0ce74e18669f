"""Triptych: serving and training of unified multimodal models. Importing this package does no work."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from triptych.client import AsyncClient, Client

__version__ = "0.1.0"
__all__ = ["AsyncClient", "Client", "__version__"]


def __getattr__(name: str) -> Any:
    """`triptych.Client` and `triptych.AsyncClient`, imported (gRPC and all) when first asked for."""
    if name in ("AsyncClient", "Client"):
        from triptych import client

        return getattr(client, name)
    raise AttributeError(f"module 'triptych' has no attribute {name!r}")
