"""What can be held of Dockerfile and compose.yaml without building; `make images` builds."""

import ast
import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml

from tests.helm.settings import CONFIGS
from triptych import __version__
from triptych.serving.config import ServingConfig

ROOT = Path(__file__).parents[2]
DOCKERFILE = re.sub(r"\\\n", " ", (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8"))
STAGES = {
    match["name"]: match["body"]
    for match in re.finditer(r"^FROM (?P<body>.*? AS (?P<name>[\w-]+)\n(?:(?!FROM ).*\n?)*)", DOCKERFILE, re.MULTILINE)
}
COMPOSE = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8"))
WORDS = ("encoder", "llm", "decoder", "orchestrator", "trainer")
SERVING = WORDS[:4]


def variables(stage: str) -> dict[str, str]:
    return dict(
        word.split("=", 1)
        for line in re.findall(r"^ENV (.*)", STAGES[stage], re.MULTILINE)
        for word in shlex.split(line)
    )


def ancestors(stage: str) -> list[str]:
    """The stages that a stage is made from, itself first."""
    found = [stage]
    while (base := STAGES[found[-1]].split()[0]) in STAGES:
        found.append(base)
    return found


def copied(stage: str) -> list[str]:
    return re.findall(r"^COPY (.*)", STAGES[stage], re.MULTILINE)


def requirements(*extras: str) -> set[str]:
    """What the images' script makes of them."""
    script = ROOT / "docker" / "requirements.py"
    command = [sys.executable, str(script), *extras]
    return set(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines())


def installed(stage: str) -> set[str]:
    """The extras that are installed in a stage and in those it is made from, both of VARIANT's among them."""
    lines = "\n".join(STAGES[name] for name in ancestors(stage))
    extras = {
        word for found in re.findall(r"/install-extras ([^/\n]+)$", lines, re.MULTILINE) for word in found.split()
    }
    return (extras - {'"$extra"'}) | set(re.findall(r"extra=([\w-]+)", lines))


@pytest.mark.parametrize("word", WORDS)
def test_a_target_for_each_word(word: str) -> None:
    """Not root at the end; pip is mounted where something is installed, and copied nowhere."""
    lines = "\n".join(STAGES[stage] for stage in reversed(ancestors(word)))
    assert ancestors(word)[-1] == "runtime"
    assert STAGES["runtime"].split()[0] == "scratch"
    assert re.findall(r"^USER (.*)$", lines, re.MULTILINE) == ["10001:10001"]
    assert "USER" in STAGES[word], "nothing is run after it"
    runs = re.findall(r"^RUN (.*)$", lines, re.MULTILINE)
    assert all(run.startswith("--mount=type=bind,from=tools,source=/tools,target=/tools") for run in runs)
    assert "apt-get" not in lines
    sources = {line for stage in ancestors(word) for line in copied(stage)}
    assert sources == {
        "--from=bare / /",
        "pyproject.toml constraints.txt /opt/triptych/share/",
        "--from=project /added /",
    }
    assert copied(word)[-1] == "--from=project /added /", "the code comes last: what is below it is kept"


@pytest.mark.parametrize("word", WORDS)
def test_what_the_process_needs_is_installed(word: str) -> None:
    """And spans, where they are asked for, and the command line."""
    given = requirements(*installed(word))
    assert requirements(word, "traces") <= given
    assert any(row.startswith("opentelemetry") for row in given)
    assert any(row.startswith("typer") for row in given)
    assert any(row.startswith("torch") for row in given) is (word != "orchestrator")
    script = (ROOT / "docker" / "install-extras").read_text(encoding="utf-8")
    assert "-c constraints.txt" in script


def test_the_trainer_exports() -> None:
    """As a recipe may ask for, after hours of training."""
    assert requirements("export") <= requirements(*installed("trainer"))


def test_torch_is_the_one_that_is_pinned() -> None:
    """In a layer that no other dependency changes."""
    (version,) = re.findall(r"^ARG TORCH=(.*)$", DOCKERFILE, re.MULTILINE)
    assert f"torch=={version}" in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert copied("torch") == []
    assert all(ancestors(word)[-3:] == ["models", "torch", "runtime"] for word in WORDS if word != "orchestrator")
    assert ancestors("orchestrator") == ["orchestrator", "runtime"]
    assert "torch" not in STAGES["orchestrator"] + STAGES["runtime"] + STAGES["project"]


@pytest.mark.parametrize("word", SERVING)
def test_the_process_understands_its_variables(word: str) -> None:
    """Those of the image, with those that compose adds; ports are the ones the image exposes."""
    given = variables(word) | COMPOSE["services"][word].get("environment", {})
    config = CONFIGS[word]
    assert issubclass(config, ServingConfig)
    with patch.dict(os.environ, given, clear=True):
        read = config.from_args([])
    exposed = re.findall(r"^EXPOSE (.*)", STAGES[word], re.MULTILINE)[0].split()
    assert exposed == [str(read.port), str(read.metrics_port)]
    assert f'ENTRYPOINT ["python", "-m", "services.{word}"]' in STAGES[word]


def test_compose_is_the_whole_system() -> None:
    services: dict[str, dict[str, Any]] = COMPOSE["services"]
    assert set(services) == set(SERVING)
    ports = {word: str(variables(word)[f"{word.upper()}_PORT"]) for word in SERVING}
    for word, service in services.items():
        assert service["build"]["target"] == word
        assert (ROOT / "docker" / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        assert service["image"].startswith(f"triptych-{word}:{__version__}")
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["tmpfs"] == ["/tmp"]
        if word != "orchestrator":
            assert "ports" not in service
            assert service["networks"] == ["components"]
            told = services["orchestrator"]["environment"][f"ORCHESTRATOR_{word.upper()}_ADDRESSES"]
            assert told == f"{word}:{ports[word]}"
            mounted = re.fullmatch(r"\$\{CHECKPOINT:-(.*)\}(/\w+):/checkpoint:ro", service["volumes"][0])
            assert mounted is not None
            assert (ROOT / "docker" / f"{mounted[1]}{mounted[2]}" / "card.json").is_file()
    assert services["orchestrator"]["ports"] == [f"127.0.0.1:{ports['orchestrator']}:{ports['orchestrator']}"]
    assert COMPOSE["networks"]["components"]["internal"] is True  # all that guards them: they were told `insecure`


def test_what_is_built_is_what_is_sent() -> None:
    """Every file that the Dockerfile copies from the repository passes its ignore list."""
    sent = {
        line[1:] for line in (ROOT / "docker" / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    names = {
        name
        for body in STAGES.values()
        for line in re.findall(r"^COPY (?!--from)(.*) \S+$", body, re.MULTILINE)
        for name in line.split()
    }
    assert {name for name in names if not name.startswith("$")} <= sent
    assert all((ROOT / name).exists() for name in sent)


def test_the_orchestrators_extra_is_all_it_imports() -> None:
    """Its image holds nothing else: what a development environment happens to have is not there."""
    code = [*(ROOT / "services" / "orchestrator").glob("*.py"), *(ROOT / "triptych" / "serving").glob("*.py")]
    nodes = [node for path in code for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    names = [a.name for node in nodes if isinstance(node, ast.Import) for a in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    roots = {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"triptych", "services"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    given = {
        re.split(r"[^\w-]", row)[0] for row in (*project["dependencies"], *extras["serving"], *extras["orchestrator"])
    }
    given |= {"pydantic", "pydantic-core"}  # by pydantic-settings
    owners = metadata.packages_distributions()
    missing = {root for root in roots if not {name.lower().replace("_", "-") for name in owners[root]} & given}
    assert "grpc" in roots
    assert missing == set()
