"""Which way of discovery the settings ask for."""

from pathlib import Path
from typing import Protocol

from services.orchestrator.discovery.file import AddressFile
from services.orchestrator.discovery.kubernetes import Kubernetes
from services.orchestrator.discovery.names import Names
from services.orchestrator.discovery.place import Discovery


class Settings(Protocol):
    """OrchestratorConfig has them."""

    @property
    def addresses(self) -> dict[str, tuple[str, ...]]: ...
    @property
    def addresses_file(self) -> Path | None: ...
    @property
    def kubernetes_selector(self) -> str: ...
    @property
    def kubernetes_namespace(self) -> str: ...


def choose_discovery(settings: Settings) -> Discovery:
    """Raises InvalidArgument when the addresses file cannot be read."""
    if settings.addresses_file is not None:
        return AddressFile(settings.addresses_file)
    if settings.kubernetes_selector:
        return Kubernetes(settings.kubernetes_selector, settings.kubernetes_namespace)
    return Names(settings.addresses)
