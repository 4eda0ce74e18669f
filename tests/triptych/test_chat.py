"""Mistakes in a conversation: on a terminal it goes on, elsewhere it ends with one line."""

import builtins
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.triptych.fake_orchestrator import FakeOrchestrator
from triptych.chat import Chat
from triptych.cli import app
from triptych.client import Client
from triptych.requests import Params

LINES = [b"/image ~nobody-here/x.png", b"/image a\0b.png", b"\xff\xfe"]


@pytest.mark.parametrize("line", LINES)
def test_piped(server: FakeOrchestrator, tmp_path: Path, line: bytes) -> None:
    result = CliRunner().invoke(app, ["chat", "--output-dir", str(tmp_path)], input=line + b"\nhello\n")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert server.requests == []


def test_on_a_terminal(server: FakeOrchestrator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pictures").mkdir()
    lines = iter([*(line.decode(errors="surrogateescape") for line in LINES), "lost", "/task understand", "hello"])

    def line(prompt: str) -> str:
        if (found := next(lines, None)) is None:
            raise EOFError
        if found == "lost":
            (tmp_path / "pictures").rmdir()
        return found

    monkeypatch.setattr(builtins, "input", line)
    with Client() as client:
        chat = Chat(client, tmp_path / "pictures", "generate", Params())
        chat._is_interactive = True
        chat.run()
    assert [request.messages[-1].contents[0].text for request in server.requests] == ["lost", "hello"]
