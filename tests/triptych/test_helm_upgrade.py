"""What is asked of `helm`: a script of that name writes it down."""

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from triptych.cli import app

RELEASE = ("--release", "art", "--namespace", "gallery", "--chart", "chart")


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    helm = tmp_path / "helm"
    helm.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/said\nexit ${{HELM_FAILS:-0}}\n')
    helm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "said"


def upgrade(*args: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["upgrade", *args])
    return result.exit_code, result.stderr


def test_only_what_changes_is_said(said: Path) -> None:
    code, _ = upgrade("decoder", *RELEASE, "--image", "0.2.0", "--set", "max_num_requests=4", "--share", "0.1")
    assert code == 0
    assert said.read_text().split() == [
        *("upgrade", "art", "chart", "--namespace", "gallery", "--reuse-values"),
        *("--set-string", "decoder.image.tag=0.2.0", "--set-string", "decoder.image.digest="),
        *("--set", "decoder.config.max_num_requests=4", "--set", "decoder.config.share=0.1"),
        *("--atomic", "--wait", "--timeout", "15m"),
    ]


def test_checkpoints_by_url_and_by_folder(said: Path) -> None:
    digest = f"sha256:{'0' * 64}"
    assert upgrade("llm", *RELEASE, "--checkpoint", "v2/llm", "--digest", digest)[0] == 0
    assert "llm.checkpoint.source=pvc" in said.read_text()
    assert "llm.checkpoint.pvc.subPath=v2/llm" in said.read_text()
    assert f"llm.checkpoint.digest={digest}" in said.read_text()
    assert upgrade("llm", *RELEASE, "--checkpoint", "https://host/a,b.tar.gz")[0] == 0
    assert "llm.checkpoint.source=fetch" in said.read_text()
    assert r"llm.checkpoint.fetch.url=https://host/a\,b.tar.gz" in said.read_text()


def test_a_share_does_not_stay(said: Path) -> None:
    """--reuse-values would keep that of the upgrade before."""
    assert upgrade("decoder", "orchestrator", *RELEASE, "--image", "0.2.0", "--timeout", "90m")[0] == 0
    assert "decoder.config.share=1\n" in said.read_text()
    assert "orchestrator.config" not in said.read_text()  # it has none
    assert said.read_text().endswith("--timeout\n90m\n")


def test_taken_back(said: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELM_FAILS", "1")
    code, stderr = upgrade("decoder", *RELEASE, "--image", "0.2.0")
    assert code == 1
    assert "the old version serves" in stderr


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("decoder", *RELEASE), "nothing to upgrade to"),
        (("llm", "encoder", *RELEASE, "--checkpoint", "v2"), "not those of llm, encoder"),
        (("decoder", *RELEASE, "--set", "oops"), "--set 'oops' must be NAME=VALUE"),
        (("decoder", "--image", "0.2.0"), "for a Helm release"),
    ],
)
def test_wrong_commands(args: tuple[str, ...], named: str) -> None:
    code, stderr = upgrade(*args)
    assert code == 2
    assert named in stderr


def test_without_helm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code, stderr = upgrade("decoder", *RELEASE, "--image", "0.2.0")
    assert code == 2
    assert "helm is not installed" in stderr
