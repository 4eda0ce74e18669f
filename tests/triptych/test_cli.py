import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
import typer
from typer.testing import CliRunner

from tests.triptych.fake_orchestrator import FakeOrchestrator, png
from triptych import __version__
from triptych.cli import app
from triptych.v1 import orchestrator_pb2 as pb

ROOT = Path(__file__).parents[2]
TRIPTYCH = [sys.executable, "-c", "from triptych.cli import main; main()"]


def run(*args: str, text: str = ""):
    return CliRunner().invoke(app, list(args), input=text)


@pytest.fixture
def image(tmp_path: Path) -> str:
    path = tmp_path / "in.png"
    path.write_bytes(png())
    return str(path)


def test_every_command_and_option_has_help() -> None:
    group = typer.main.get_command(app)
    talk = {"ask", "draw", "edit", "chat", "status", "health", "keys"}
    work = {"up", "upgrade", "import", "export", "evaluate", "train"}
    assert set(group.commands) == talk | work
    inner = [*group.commands["import"].commands.values(), *group.commands["keys"].commands.values()]
    for command in (group, *group.commands.values(), *inner):
        assert command.help, command.name
        for param in command.params:
            assert getattr(param, "help", None), f"{command.name} {param.name}"


def test_version() -> None:
    assert run("--version").stdout == f"triptych {__version__}\n"


def test_ask_puts_the_answer_alone_on_stdout(server: FakeOrchestrator, image: str) -> None:
    result = run("ask", image, image, "what is it?")
    assert (result.exit_code, result.stdout) == (0, "a red circle\n")
    assert "request req7" in result.stderr
    assert [c.WhichOneof("content") for c in server.requests[0].messages[0].contents] == ["image", "image", "text"]
    assert server.requests[0].task == pb.TASK_UNDERSTAND


def test_ask_without_a_picture(server: FakeOrchestrator) -> None:
    assert run("ask", "hello").stdout == "a red circle\n"


def test_answers_cannot_drive_the_terminal(server: FakeOrchestrator) -> None:
    server.text = ("\x1b[2Jred\n", "  indented\x07")
    assert run("ask", "hello").stdout == "[2Jred\n  indented\n"


def test_draw(server: FakeOrchestrator, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    result = run("draw", "a square", "-o", str(out), "--seed", "7", "--steps", "3", "--guidance", "2")
    assert (result.exit_code, result.stdout) == (0, f"{out}\n")
    assert "seed 7" in result.stderr
    assert out.read_bytes() == png("blue")
    params = server.requests[0].image_params
    assert (params.seed, params.num_inference_steps, params.guidance_scale) == (7, 3, 2)


def test_draw_previews(server: FakeOrchestrator, tmp_path: Path) -> None:
    assert run("draw", "x", "-o", str(tmp_path / "out.png"), "--preview-interval", "1").exit_code == 0
    assert (tmp_path / "out.preview.png").read_bytes() == png("gray")


@pytest.mark.parametrize("name", [".", "..", "/", "", "out.txt", "out.tar.gz"])
def test_draw_to_where_no_picture_can_go(server: FakeOrchestrator, name: str) -> None:
    """Said before anything is drawn."""
    result = run("draw", "x", "-o", name, "--preview-interval", "1")
    assert result.exit_code == 2
    assert f"error: --output {name or '.'}" in result.stderr
    assert server.requests == []


@pytest.mark.parametrize("name", ["out", "out.PNG", "out.jpg", "out.webp"])
def test_draw_in_many_formats(server: FakeOrchestrator, tmp_path: Path, name: str) -> None:
    assert run("draw", "x", "-o", str(tmp_path / name)).exit_code == 0
    assert (tmp_path / name).stat().st_size > 0


def test_edit(server: FakeOrchestrator, tmp_path: Path, image: str) -> None:
    assert run("edit", image, "make it blue", "-o", str(tmp_path / "out.png")).exit_code == 0
    assert server.requests[0].task == pb.TASK_EDIT


def test_chat_piped(server: FakeOrchestrator, tmp_path: Path, image: str) -> None:
    lines = f"hello\n/image {image}\n\n/task understand\nwhat is it?\n/quit\nnever\n"
    result = run("chat", "--output-dir", str(tmp_path), "--seed", "4", text=lines)
    drawn = tmp_path / "image-001.png"
    assert result.exit_code == 0
    assert result.stdout == f"a red circle\n{drawn}\ndone\na red circle\n"
    assert drawn.read_bytes() == png("blue")
    first, second = server.requests
    assert (first.task, second.task) == (pb.TASK_AUTO, pb.TASK_UNDERSTAND)
    assert [c.WhichOneof("content") for c in second.messages[1].contents] == ["text", "image", "text"]
    assert second.messages[2].contents[0].image == png()


def test_chat_never_overwrites(server: FakeOrchestrator, tmp_path: Path) -> None:
    (tmp_path / "image-001.png").write_bytes(b"mine")
    assert run("chat", "--output-dir", str(tmp_path), text="draw\ndraw\n").exit_code == 0
    assert (tmp_path / "image-001.png").read_bytes() == b"mine"
    assert (tmp_path / "image-003.png").exists()


@pytest.mark.parametrize("line", ["/image /nowhere.png", "/task paint", "/nonsense"])
def test_chat_piped_ends_at_the_first_mistake(server: FakeOrchestrator, tmp_path: Path, line: str) -> None:
    result = run("chat", "--output-dir", str(tmp_path), text=f"{line}\nhello\n")
    assert result.exit_code == 2
    assert line.split()[-1] in result.stderr
    assert server.requests == []


def test_status_piped_is_tab_separated(server: FakeOrchestrator) -> None:
    result = run("status")
    assert result.exit_code == 0
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert rows[2] == [
        *("llm", "10.0.0.1:1", "serving", "mistral-tiny 1.0.0 (0123456789ab)", "0123456789ab.cafe", "torch"),
        *("on trial", "25%", "1", "2", "7 (1 failed)", "embeddings: in@1", "an older one serves"),
    ]
    assert rows[3][:4] == ["decoder", "10.0.0.2:1", "unreachable", "?"]
    assert rows[-1] == ["-", "0123456789ab", "-", "no", "no [odd] match"]


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, 2),
        (grpc.StatusCode.FAILED_PRECONDITION, 1),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 1),
        (grpc.StatusCode.INTERNAL, 1),
        (grpc.StatusCode.UNAVAILABLE, 3),
    ],
)
def test_exit_codes(server: FakeOrchestrator, tmp_path: Path, code: grpc.StatusCode, exit_code: int) -> None:
    server.errors = [(code, "the reason")] * 9
    out = tmp_path / "out.png"
    result = run("draw", "x", "-o", str(out))
    assert result.exit_code == exit_code
    assert result.stdout == ""
    assert result.stderr == "error [llm]: the reason (request req7)\n"
    assert not out.exists()


def test_exit_code_when_nobody_is_there() -> None:
    result = run("status", "--address", "127.0.0.1:1")
    assert result.exit_code == 3
    assert "127.0.0.1:1" in result.stderr


@pytest.mark.parametrize(
    "args",
    [
        ["ask"],
        ["ask", "/nowhere.png", "what?"],
        ["draw", "x"],
        ["draw", "x", "-o", "/nowhere/out.png"],
        ["draw", "x", "-o", "out.png", "--seed", "red"],
        ["draw", "x", "-o", "out.png", "--nonsense", "1"],
        ["status", "--timeout-s", "inf"],  # which gRPC takes for a moment long past
        ["evaluate", ".", "-o", __file__],
        ["upgrade", "encoder", "--backend", "torch", "--trial", "99999999999"],
        ["chat", "--task", "paint"],
        ["chat", "--output-dir", "/nowhere"],
        ["up"],
        ["paint"],
    ],
)
def test_bad_usage_exits_with_2(server: FakeOrchestrator, args: list[str]) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert result.stderr
    assert server.requests == []


@pytest.mark.parametrize(
    "args",
    [
        ["ask", "\udcff"],
        ["draw", "\udcff", "-o", "out.png"],
        ["status", "--address", "\udcff:1"],
        ["health", "--service", "\udcff"],
        ["upgrade", "encoder", "--set", "a=\udcff"],
        ["--api-key-file", sys.executable, "status"],
        ["up", "--checkpoint", ".", "--replicas", f"encoder={'9' * 5000}"],
    ],
)
def test_bytes_that_are_no_text(
    server: FakeOrchestrator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str]
) -> None:
    """One line, no traceback. Python has such bytes of an argument as surrogates."""
    monkeypatch.setattr("triptych.local.control.socket_of", lambda address: tmp_path)
    result = run(*args)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)


@pytest.mark.parametrize("args", [["status"], ["draw", "x", "-o", "out.png"]])
def test_on_a_terminal(server: FakeOrchestrator, tmp_path: Path, args: list[str]) -> None:
    ours, theirs = pty.openpty()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "200"}
    process = subprocess.Popen([*TRIPTYCH, *args], stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path, env=env)
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:  # the other side is closed
        pass
    assert process.wait(10) == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    if args == ["status"]:
        assert "mistral-tiny 1.0.0" in plain
        assert "no [odd] match" in plain
    else:
        assert "drawing" in plain
        assert "2/2" in plain
        assert "out.png" in plain


def test_up_with_a_missing_checkpoint(tmp_path: Path) -> None:
    result = run("up", "--checkpoint", str(tmp_path / "nowhere"))
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert "system.json is missing" in result.stderr
