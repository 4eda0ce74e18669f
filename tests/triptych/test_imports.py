"""`triptych import` as one types it."""

from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tests.triptych.models.published import folders
from triptych.cli import app
from triptych.imports import IMPORTERS
from triptych.up import check_checkpoint


def run(*args: object) -> Result:
    return CliRunner().invoke(app, ["import", *map(str, args)])


def test_llava(tmp_path: Path) -> None:
    folders.write_llava(tmp_path / "published")
    out = tmp_path / "out"
    done = run("llava", "--model", tmp_path / "published", "-o", out, "--seed", 1)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == str(out)
    assert check_checkpoint(out) == ("encoder", "llm")
    again = run("llava", "--model", tmp_path / "published", "-o", out)
    assert again.exit_code == 2
    assert f"error: {out} exists already" in again.stderr


def test_genllava_names_the_folder_that_is_missing(tmp_path: Path) -> None:
    folders.write_siglip(tmp_path / "siglip")
    (tmp_path / "mistral").mkdir()
    flags = ("--vision", tmp_path / "siglip", "--llm", tmp_path / "mistral", "--diffusion", tmp_path / "none")
    done = run("genllava", *flags, "-o", tmp_path / "out")
    assert done.exit_code == 2
    assert f"error: diffusion: {tmp_path / 'none'} is not a folder" in done.stderr
    (tmp_path / "none").mkdir()
    done = run("genllava", *flags, "-o", tmp_path / "out")
    assert done.exit_code == 2
    assert f"error: {tmp_path / 'mistral' / 'config.json'} is missing" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_seed_that_torch_has_no_room_for(tmp_path: Path) -> None:
    done = run("llava", "--model", tmp_path, "-o", tmp_path / "out", "--seed", 2**64)
    assert done.exit_code == 2
    assert "9223372036854775807" in done.stderr


def test_a_base_install_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(IMPORTERS, "llava", ("no_such_module", "import_llava"))
    done = run("llava", "--model", tmp_path, "-o", tmp_path / "out")
    assert done.exit_code == 1
    assert "No module named 'no_such_module': importing needs more, pip install 'triptych[models]'" in done.stderr
