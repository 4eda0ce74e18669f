from pathlib import Path

import pytest

from services.orchestrator.config import OrchestratorConfig
from services.orchestrator.discovery.choice import choose_discovery
from services.orchestrator.discovery.file import AddressFile
from services.orchestrator.discovery.kubernetes import Kubernetes
from services.orchestrator.discovery.names import Names
from triptych.errors import InvalidArgument


def test_each_way(tmp_path: Path) -> None:
    file = tmp_path / "addresses.json"
    file.write_text("{}")
    assert isinstance(choose_discovery(OrchestratorConfig(llm_addresses=("a:1",))), Names)
    assert isinstance(choose_discovery(OrchestratorConfig(addresses_file=file)), AddressFile)
    assert isinstance(choose_discovery(OrchestratorConfig(kubernetes_selector="app=a")), Kubernetes)
    with pytest.raises(InvalidArgument, match="No such file"):
        choose_discovery(OrchestratorConfig(addresses_file=tmp_path / "none"))


@pytest.mark.parametrize(
    "settings",
    [{"llm_addresses": "a:1", "kubernetes_selector": "x"}, {"addresses_file": "f", "kubernetes_selector": "x"}],
)
def test_one_way_only(settings: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="give one of addresses"):
        OrchestratorConfig(**settings)  # type: ignore[arg-type]
