"""The command as it is run: killed whenever, it goes on and writes the very same bytes; what is wrong is said at
once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from services.trainer.data.folder import MixFolder
from services.trainer.data.mix import Mix
from services.trainer.data.reader import ShardReader
from services.trainer.prepare import main
from tests.services.trainer.data.conftest import make_mix
from tests.services.trainer.data.published import TOKENIZER, write_gvit

ROOT = Path(__file__).parents[3]
TIMEOUT_S = 240


def write_toml(root: Path) -> Path:
    """The recipe of `write_gvit`, with the data that it writes below `root`; its paths relative to there."""
    mix = write_gvit(root, 16, samples_per_shard=4)
    lines = ['name = "tiny"', "samples_per_shard = 4", "records_per_piece = 5"]
    lines += [f'length = {{tokenizer = "{TOKENIZER}", num_image_tokens = 36, max_tokens = 400}}', "[shares]"]
    lines += [f"{group} = {share}" for group, share in mix.shares.items()]
    for config in mix.sources:
        values = {key: value for key, value in config if value is not None and key not in ("prefixes", "unwanted")}
        lines += ["[[sources]]"] + [
            f"{key} = {value}" if isinstance(value, int) else f'{key} = "{value}"'.replace(f"{root}/", "")
            for key, value in values.items()
        ]
    path = root / "mix.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def start(root: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "services.trainer.prepare", "mix.toml", "-o", "out", "--workers", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=root, text=True, env=environment, start_new_session=True, **pipes)


def kill_when(root: Path, pattern: str, least: int) -> None:
    """SIGKILL to the command alone, as soon as there are so many files; its workers must end by themselves."""
    process = start(root)
    deadline = time.monotonic() + TIMEOUT_S
    while len(list((root / "out").glob(pattern))) < least:
        assert process.poll() is None, process.communicate()[1][-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.wait()
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("workers outlived the command")


@pytest.mark.slow
def test_killed_and_gone_on(tmp_path: Path) -> None:
    root = tmp_path / "root"
    mix = Mix.read(write_toml(root))
    kill_when(root, "work/*/scan-*.jsonl", 3)
    kill_when(root, "shard-*.tar", 2)
    process = start(root)
    output, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, errors[-2000:]
    assert output.strip() == "out/card.html"
    assert MixFolder.begin(mix, tmp_path / "whole", root).mix.name == "tiny"
    make_mix(tmp_path / "whole")
    assert not list((root / "out").rglob("*.partial"))
    written = sorted(path.name for path in (root / "out").iterdir() if path.is_file())
    assert written == sorted(path.name for path in (tmp_path / "whole").iterdir() if path.is_file())
    for name in written:
        assert (root / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert len(ShardReader(root / "out")) == 80


@pytest.mark.slow
def test_ctrl_c(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_toml(root)
    process = start(root)
    deadline = time.monotonic() + TIMEOUT_S
    while not list((root / "out").glob("work/*/scan-*.jsonl")):
        assert process.poll() is None, process.communicate()[1][-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130
    assert "the same command goes on from here" in errors
    assert "Traceback" not in errors


def test_what_is_wrong_is_said_before_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    assert main([str(tmp_path / "none.toml"), "-o", out]) == 2
    assert "none.toml does not exist" in capsys.readouterr().err
    path = write_toml(tmp_path)
    path.write_text(path.read_text().replace('path = "sharegpt', f'path = "{tmp_path}/nowhere'))
    assert main([str(path), "-o", out]) == 2
    assert "source sharegpt:" in capsys.readouterr().err
    path.write_text(path.read_text().replace("language = 10", "language = 11"))
    assert main([str(path), "-o", out]) == 2
    assert "shares add up to 101.00, not 100 percent" in capsys.readouterr().err
    assert not Path(out).exists()
    with pytest.raises(SystemExit):
        main([str(path), "-o", out, "--workers", "0"])


def test_a_folder_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where the mix's paths start
    path = write_toml(tmp_path)
    (tmp_path / "file").touch()
    assert main([str(path), "-o", str(tmp_path / "file" / "mix"), "--workers", "1"]) == 1
    assert capsys.readouterr().err.startswith("error: [Errno 20] Not a directory: ")
