"""`triptych evaluate` as it is run: another process, a report, and one line for bad input."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from services.trainer import evaluate
from services.trainer.evaluate import main
from tests.tiny import write_tiny_checkpoint
from triptych.card import read_card
from triptych.errors import FailedPrecondition
from triptych.handover import hand_over

ROOT = Path(__file__).parents[3]
TRIPTYCH = [sys.executable, "-c", "from triptych.cli import main; main()"]


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*TRIPTYCH, "evaluate", *args], cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_the_report(tmp_path: Path) -> None:
    checkpoint = write_tiny_checkpoint(tmp_path / "checkpoint")
    names = "blocks-questions,blocks-drawings"
    done = run(str(checkpoint), "-o", str(tmp_path / "report"), "--num-scenes", "2", "--evaluators", names)
    assert done.returncode == 0, done.stderr
    page = tmp_path / "report" / "evaluation.html"
    assert done.stdout.splitlines()[-1] == str(page)
    assert "questions" in done.stdout
    values = json.loads((tmp_path / "report" / "evaluation.json").read_text())
    assert values["checkpoint"]["llm"]["digest"] == read_card(checkpoint / "llm").digest
    assert (values["settings"]["num_scenes"], values["settings"]["num_inference_steps"]) == (2, 4)
    assert set(values["evaluators"]) == set(names.split(","))
    figure = values["evaluators"]["blocks-questions"]["figures"]["questions"]
    assert figure["of"] == 4
    assert 0 <= figure["interval"][0] <= figure["value"] <= figure["interval"][1] <= 1
    text = page.read_text()
    assert text.count("data:image/png;base64,") >= 6
    assert "src=" in text
    assert "http" not in text  # it needs nothing beside it


def test_bad_input_through_the_command(tmp_path: Path) -> None:
    done = run(str(tmp_path / "nothing"), "-o", str(tmp_path / "report"))
    assert (done.returncode, done.stderr) == (2, f"error: there is no checkpoint {tmp_path / 'nothing'}\n")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--evaluators", "taste"], "unknown evaluator 'taste', known: blocks-drawings"),
        (["--evaluators", "vqa"], "evaluator vqa needs its data set: --data vqa=FOLDER"),
        (["--data", "vqa=nowhere"], "--data vqa=nowhere is no folder"),
        (["--data", "vqa"], "--data vqa must be NAME=FOLDER"),
        (["--num-scenes", "0"], "num_scenes is 0"),
        (["--dino", "nowhere"], "nowhere holds no config.json"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    args: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = ROOT / "checkpoints" / "genllava-tiny"
    assert main([str(checkpoint), "-o", str(tmp_path / "report"), *args]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert len(errors.strip().splitlines()) == 1
    assert not (tmp_path / "report").exists()


def test_a_report_that_cannot_be_written_is_said_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main([str(tmp_path / "nothing"), "-o", str(tmp_path / "file" / "report")]) == 2
    assert capsys.readouterr().err == (
        f"error: --output {tmp_path}/file/report: {tmp_path}/file is no folder that may be written to\n"
    )


def test_a_full_disk_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(evaluate, "evaluate_checkpoint", fails)
    assert main([str(tmp_path), "-o", str(tmp_path / "report")]) == 1
    assert capsys.readouterr().err == "error: [Errno 28] No space left on device\n"


def test_a_module_that_is_not_there() -> None:
    with pytest.raises(FailedPrecondition, match=r"nothing.here is not installed: pip install 'triptych\[trainer\]'"):
        hand_over("nothing.here", [])
