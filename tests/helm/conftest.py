import pytest

from tests.helm.charts import EXAMPLES, Object, render, values_of
from tests.helm.podman import Podman

ALL = ("defaults", *EXAMPLES, "everything")


@pytest.fixture(scope="session", params=ALL)
def objects(request: pytest.FixtureRequest) -> dict[tuple[str, str], Object]:
    """Rendered from the defaults, from each example, and with everything switched on."""
    return render(values_of(request.param))


@pytest.fixture(scope="session")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Podman:
    return Podman(tmp_path_factory.mktemp("podman"))
