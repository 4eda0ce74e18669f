"""Components that are not what they say, or not made for each other, never serve together."""

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.processes import TRIPTYCH, Process, System, component, orchestrator, run
from triptych.card import read_card, write_card
from triptych.client import Client
from triptych.errors import FailedPrecondition

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folders(system_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints by what is wrong with them."""
    from tests.tiny import write_tiny_checkpoint

    root = tmp_path_factory.mktemp("wrong")
    foreign = write_tiny_checkpoint(root / "foreign", seed=1, version="2.0.0")
    tampered = Path(shutil.copytree(system_checkpoint, root / "tampered"))
    weights = bytearray((tampered / "decoder" / WEIGHTS).read_bytes())
    weights[-1] ^= 1
    (tampered / "decoder" / WEIGHTS).write_bytes(weights)
    changed = Path(shutil.copytree(system_checkpoint, root / "preprocessing"))
    config = changed / "encoder" / "vision" / "preprocessor_config.json"
    values = json.loads(config.read_text())
    assert values["image_mean"] != [0.4, 0.5, 0.5]
    config.write_text(json.dumps(values | {"image_mean": [0.4, 0.5, 0.5]}))
    write_card(changed / "encoder", read_card(changed / "encoder"))
    return {"foreign": foreign, "tampered": tampered, "preprocessing": changed}


@pytest.fixture(scope="module")
def processes(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Process]]:
    """One for each, all started at once."""
    stages = {"foreign": "decoder", "tampered": "decoder", "preprocessing": "encoder"}
    with ExitStack() as stack:
        yield {
            wrong: stack.enter_context(
                component(stage, folders[wrong], tmp_path_factory.mktemp(wrong), "--log-level", "error")
            )
            for wrong, stage in stages.items()
        }


def last_line(process: Process) -> str:
    assert process.wait() == 1
    assert "Traceback" not in process.log
    return process.log.splitlines()[-1]


def test_tampered_weights_refuse_to_start(processes: dict[str, Process], folders: dict[str, Path]) -> None:
    line = last_line(processes["tampered"])
    assert line.startswith(
        f"decoder: decoder tiny 1.0.0 in {folders['tampered'] / 'decoder'} is half-copied or changed"
    )
    assert line.count("sha256:") == 2


def test_changed_preprocessing_fails_its_probe(processes: dict[str, Process]) -> None:
    """The digest is right again, the results are not."""
    line = last_line(processes["preprocessing"])
    assert line.startswith("encoder: encoder tiny 1.0.0: probe '")
    assert line.endswith("must be at least 0.999")


def test_decoder_of_another_run_is_refused(system: System, processes: dict[str, Process], tmp_path: Path) -> None:
    """The shapes are the same: only the spaces tell that its pictures would mean nothing."""
    addresses = system.components | {"decoder": processes["foreign"].await_serving()}
    with orchestrator(tmp_path, addresses) as front, Client(front.await_serving()) as client:
        with pytest.raises(FailedPrecondition) as caught:
            client.draw("a ball")
        (chain,) = client.components().chains
        assert not chain.compatible
        space = read_card(system.checkpoint / "llm").output("hidden_states").space
        for named in ("llm tiny 1.0.0", "decoder tiny 2.0.0", space):
            assert named in str(caught.value)
            assert named in chain.reason
        assert client.ask((), "hello").text, "text needs no decoder"
        status = run(*TRIPTYCH, "status", "--address", client.address)
        assert "\tno\tllm tiny 1.0.0" in status.stdout
        drawn = run(*TRIPTYCH, "draw", "a ball", "-o", tmp_path / "x.png", "--address", client.address)
        assert drawn.returncode == 1
        assert drawn.stderr.startswith("error")
        assert "no compatible chain: llm tiny 1.0.0" in drawn.stderr


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (shutil.rmtree, "is no checkpoint"),
        (lambda folder: (folder / "system.json").unlink(), "system.json is missing"),
        (lambda folder: shutil.rmtree(folder / "llm"), "card.json is missing"),
        (lambda folder: (folder / "encoder" / "probes.safetensors").unlink(), "is half-copied or changed"),
        (lambda folder: (folder / "decoder" / WEIGHTS).write_bytes(b""), "is half-copied or changed"),
    ],
    ids=["missing", "no system.json", "no llm", "no probes", "empty weights"],
)
def test_up_refuses_what_is_no_whole_checkpoint(system_checkpoint: Path, tmp_path: Path, damage, named: str) -> None:
    folder = Path(shutil.copytree(system_checkpoint, tmp_path / "copy"))
    damage(folder)
    up = run(*TRIPTYCH, "up", "--checkpoint", folder, "--port", "0")
    assert (up.returncode, up.stdout) == (2, "")
    assert len(up.stderr.splitlines()) == 1
    assert up.stderr.startswith("error: ")
    assert named in up.stderr
