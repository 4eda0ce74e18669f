"""The command line, the examples and what operators look at, against the four real processes."""

import re
import secrets
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.integration.pictures import encoded, noise, pixels_of
from tests.integration.processes import ROOT, SERVICES, TRIPTYCH, System, run, wait_until
from triptych.client import Client
from triptych.requests import Params


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a picture in it that no cache has seen."""
    (tmp_path / "in.png").write_bytes(encoded(noise(seed=secrets.randbits(32))))
    return tmp_path


def triptych(system: System, folder: Path, *args: str, text: str = "") -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    done = run(*TRIPTYCH, *args, cwd=folder, text=text, TRIPTYCH_ADDRESS=system.address)
    return done.returncode, done.stdout, done.stderr


def test_ask(client: Client, system: System, folder: Path) -> None:
    flags = ("--max-tokens", "5", "--temperature", "0")
    code, stdout, stderr = triptych(system, folder, "ask", "in.png", "what?", *flags)
    assert code == 0, stderr
    said = client.ask(folder / "in.png", "what?", Params(max_tokens=5, temperature=0)).text
    assert (
        stdout.strip() == "".join(c for c in said if c.isprintable() or c in "\n\t").strip()
    )  # random weights say all
    assert re.search(r"\b(length|stop) after \d+ ms", stderr)  # random weights may end early
    assert "encoder" in stderr


def test_draw_then_edit(client: Client, system: System, folder: Path) -> None:
    flags = ("--seed", "3", "--steps", "4", "--guidance", "2")
    code, stdout, stderr = triptych(system, folder, "draw", "a red ball", "-o", "ball.png", *flags)
    assert code == 0, stderr
    assert stdout.splitlines()[0] == "ball.png"
    drawn = client.draw("a red ball", seed=3, steps=4, guidance=2.0)
    assert (folder / "ball.png").read_bytes() == drawn.png
    previews = ("--preview-interval", "2")
    code, _, stderr = triptych(system, folder, "edit", "ball.png", "make it blue", "-o", "blue.png", *flags, *previews)
    assert code == 0, stderr
    edited = client.edit(folder / "ball.png", "make it blue", seed=3, steps=4, guidance=2.0)
    assert (folder / "blue.png").read_bytes() == edited.png
    assert pixels_of((folder / "blue.preview.png").read_bytes()).shape == (16, 16, 3)


def test_chat_from_a_pipe(system: System, folder: Path) -> None:
    lines = "/task generate\na red ball\n/task edit\nmake it blue\n/image in.png\n/task understand\nwhat now?\n/quit\n"
    code, stdout, stderr = triptych(system, folder, "chat", "--seed", "1", "--max-tokens", "4", text=lines)
    assert code == 0, stderr
    assert "image-001.png" in stdout.splitlines()
    drawn = sorted(path.name for path in folder.glob("image-*.png"))
    assert drawn == sorted(line for line in stdout.splitlines() if line.startswith("image-"))
    assert len(drawn) >= 2
    assert stderr.count("; request ") == 3


def test_status(system: System, folder: Path) -> None:
    code, stdout, _ = triptych(system, folder, "status")
    assert code == 0
    rows = [line.split("\t") for line in stdout.splitlines()]
    replicas = {row[0]: row for row in rows if row[0] in SERVICES and len(row) > 5}
    assert set(replicas) == {"encoder", "llm", "decoder"}
    for stage, row in replicas.items():
        assert row[1:3] == [system.components[stage], "serving"]
        assert row[3].startswith("tiny 1.0.0 (")
    assert rows[-1][3] == "yes"


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("ask", "missing.png", "what?"), 2, "error: image 'missing.png': No such file or directory"),
        (("ask", "broken.png", "what?"), 2, "error [orchestrator]: messages[0].contents[0].image"),
        (("draw", "a ball", "-o", "x.png", "--steps", "5000"), 2, "num_inference_steps is 5000"),
        (("draw", "a ball", "-o", "no/such/folder/x.png"), 2, "is not a folder"),
        (("draw", "a ball"), 2, "Missing option"),
        (
            ("ask", "hello", "--address", "127.0.0.1:1"),
            3,
            "error [orchestrator]: no orchestrator answers at 127.0.0.1:1",
        ),
        (("draw", "a ball", "-o", "x.png", "--steps", "50", "--timeout-s", "0.05"), 1, "Deadline Exceeded"),
    ],
    ids=["missing", "broken", "bound", "folder", "usage", "unavailable", "deadline"],
)
def test_exit_codes(system: System, folder: Path, args: tuple[str, ...], code: int, says: str) -> None:
    (folder / "broken.png").write_bytes(b"no picture")
    found, stdout, stderr = triptych(system, folder, *args)
    assert says in stderr
    assert (found, "Traceback" in stderr) == (code, False)
    assert not (folder / "x.png").exists(), stdout


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("ask", ("in.png", "what is it?")),
        ("draw", ("a circle", "out.png")),
        ("edit", ("in.png", "make it blue", "out.png")),
        ("chat_stream", ("out.png",)),
    ],
)
def test_example(system: System, folder: Path, name: str, args: tuple[str, ...]) -> None:
    script = ROOT / "examples" / f"{name}.py"
    done = run(sys.executable, script, *args, cwd=folder, TRIPTYCH_ADDRESS=system.address)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert (folder / "out.png").exists() == ("out.png" in args)


def test_one_request_id_in_four_logs(client: Client, system: System) -> None:
    done = client.chat().send("make it blue", [noise(seed=31)], "edit").done
    assert {served.kind for served in done.served_by} == {"encoder", "llm", "decoder"}
    for service in SERVICES:
        wait_until(partial(logs_success, system, service, done.request_id), f"{service} logs {done.request_id}", 5)


def logs_success(system: System, service: str, request_id: str) -> bool:
    return any(request_id in line and "status=OK" in line for line in system.log(service).splitlines())


def test_metrics_endpoints_count(client: Client, system: System) -> None:
    before = {service: system.metrics(service) for service in SERVICES}
    client.edit(noise(seed=32), "make it blue")
    after = {service: system.metrics(service) for service in SERVICES}

    def rise(service: str, name: str) -> float:
        return after[service][name] - before[service].get(name, 0)

    assert rise("encoder", "triptych_encoder_images_total") == 1
    assert all(rise(service, f"triptych_{service}_queued_ms_count") >= 1 for service in SERVICES)
    assert rise("llm", "triptych_llm_tokens_total") > 10
    assert rise("decoder", "triptych_decoder_images_total") >= 1
    assert rise("orchestrator", 'triptych_orchestrator_requests_total{status="OK",task="edit"}') == 1
    assert all("process_cpu_seconds_total" in found for found in after.values())
