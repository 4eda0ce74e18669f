"""What README.md says must be so."""

import inspect
import re
import shlex
import sys
from pathlib import Path

import click
import pytest
import typer

from tests.integration.processes import System, run
from triptych.cli import app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line for language, text in BLOCKS if not language for line in text.splitlines()]
PYTHON = [text for language, text in BLOCKS if language == "python"]
MAP = [row.split("|")[1] for row in README.partition("## Map")[2].splitlines() if row.startswith("| `")]


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def test_the_first_commands_are_demo_and_test() -> None:
    assert COMMANDS[:2] == ["make demo", "make test"]


def test_every_target_exists() -> None:
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE))
    assert {"demo", "test", "train", "bench", "proto"} <= named <= targets()


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("triptych ")])
def test_triptych_command(line: str) -> None:
    """It parses as it stands: every option and argument is known to the subcommand, and of the right type."""
    group = typer.main.get_command(app)
    _, name, *args = shlex.split(line)
    assert isinstance(group, click.Group | typer.core.TyperGroup)
    command = group.commands[name]
    while isinstance(command, click.Group | typer.core.TyperGroup):
        name, *args = args
        command = command.commands[name]
    context = command.make_context(name, list(args))
    assert context.params
    options = {option for param in command.params for option in param.opts}
    assert {word for word in args if word.startswith("-")} <= options


def test_every_triptych_command_is_shown() -> None:
    group = typer.main.get_command(app)
    shown = {line.split()[1] for line in COMMANDS if line.startswith("triptych ")}
    assert shown == set(group.commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("python -m services.")])
def test_service_command(line: str) -> None:
    module, flags = line.split()[2], re.findall(r"--[a-z-]+", line)
    done = run(sys.executable, "-m", module, "--help")
    assert done.returncode == 0
    assert [flag for flag in flags if f"{flag} " not in done.stdout] == []


def test_every_top_level_folder_is_in_the_map() -> None:
    mapped = {path.strip(" `").split("/")[0] for path in MAP}
    ignored = {line.strip("/ ") for line in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()}
    found = {path.name for path in ROOT.iterdir() if path.is_dir()}
    hidden = {name for name in found if name.startswith(".")} - {".ci"}
    assert found - hidden - ignored - {"__pycache__"} == mapped


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`([\w./-]+/[\w./-]*)`", README)) - {"demo/"}))
def test_every_path_exists(path: str) -> None:
    assert (ROOT / path).exists()
    assert (ROOT / path).is_dir() or not path.endswith("/")


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_every_link_leads_somewhere(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("code", PYTHON, ids=lambda code: inspect.cleandoc(code).splitlines()[0])
def test_python_runs(code: str, system: System, tmp_path: Path) -> None:
    """Against the four processes; it writes the pictures that it says it saves."""
    done = run(sys.executable, "-c", code, cwd=tmp_path, TRIPTYCH_ADDRESS=system.address)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    saved = {Path(name.split("{")[0]).stem for name in re.findall(r'save\(f?"([^"]+)"\)', code)}
    assert saved
    assert all(list(tmp_path.glob(f"{stem}*.png")) for stem in saved)
