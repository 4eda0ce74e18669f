"""The rules of CONTRIBUTING.md that a machine can check."""

import ast
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FIVE = ("encoder", "llm", "decoder", "orchestrator", "trainer")
CODE = ("triptych", "services", "tests", "examples", "benchmarks", "scripts")
MAX_LINES = 350
MAX_BYTES = 16 * 2**20
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc"}


def python_files() -> list[Path]:
    """Everything written by hand."""
    generated = ROOT / "triptych" / "v1"
    found = [path for folder in CODE for path in (ROOT / folder).rglob("*.py")]
    return sorted(path for path in found if generated not in path.parents)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tracked() -> list[Path]:
    """What git would put into a commit. Empty outside a checkout (an unpacked archive)."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return [path for entry in done.stdout.split("\0") if entry and (path := ROOT / entry).is_file()]


@pytest.mark.parametrize("word", FIVE)
def test_five_words_name_folder_extra_and_tests(word: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (ROOT / "services" / word / "__main__.py").is_file()
    assert word in project["optional-dependencies"]
    assert any((ROOT / "tests" / "services" / word).rglob("test_*.py"))


def test_no_service_without_a_word() -> None:
    folders = {path.name for path in (ROOT / "services").iterdir() if path.is_dir() and path.name[0] not in "._"}
    assert folders == set(FIVE)


def test_no_vague_names() -> None:
    vague = [name(p) for p in python_files() if p.stem in VAGUE or VAGUE & set(p.relative_to(ROOT).parts)]
    assert vague == []


def test_files_are_short() -> None:
    long = {name(p): lines for p in python_files() if (lines := p.read_text(encoding="utf-8").count("\n")) > MAX_LINES}
    assert long == {}


def asserts(function: ast.AST) -> bool:
    """An assert, a `pytest.raises`/`warns`, or a call of an assertion function (`assert_close`, `_check_...`)."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in {"raises", "warns", "fail"} or called.lstrip("_").startswith(("assert", "check", "expect")):
                return True
    return False


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("test_*.py")), ids=name)
def test_every_test_file_asserts(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    tests = [function for function in functions if function.name.startswith("test_")]
    assert any(asserts(test) for test in tests)


def test_no_large_files() -> None:
    large = {name(path): size for path in tracked() if (size := path.stat().st_size) > MAX_BYTES}
    assert large == {}


def test_packages_say_that_they_are_typed() -> None:
    assert all((ROOT / package / "py.typed").is_file() for package in ("triptych", "services"))
