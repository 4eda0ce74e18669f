"""The training loop on a toy: a run that is killed anywhere and resumed ends with the very same weights."""

import json
import math
import resource
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from services.trainer.average import Ema
from services.trainer.compiling import compile_checked
from services.trainer.config import Stage
from services.trainer.metrics import MetricsLog
from services.trainer.train import StageRun, learning_rate, train_stage
from tests.services.trainer.toy import CONFIG, STEPS, LosesGradients, Stop, Toy
from triptych.errors import FailedPrecondition, InvalidArgument


def train(toy: Toy, folder: Path, digest: str = "d") -> list[dict[str, float]]:
    reports: list[dict[str, float]] = []
    train_stage(toy, folder, digest, reports.append)
    return reports


def written(folder: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = torch.load(folder / "out" / "weights.pt", weights_only=True)
    return weights


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def figures(folder: Path) -> list[dict[str, float]]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines(folder)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("undisturbed")
    train(Toy(), folder)
    return folder


@pytest.mark.parametrize("stop_at", range(STEPS))
def test_resumed_runs_end_with_the_same_weights(stop_at: int, undisturbed: Path, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train(Toy(stop_at), tmp_path)
    assert not (tmp_path / "done.json").exists()
    again = Toy()
    train(again, tmp_path)
    assert again.steps == list(range(stop_at // 3 * 3, STEPS))
    wanted = written(undisturbed)
    for key, value in written(tmp_path).items():
        assert torch.equal(value, wanted[key]), key
    assert [line for line in figures(tmp_path) if "accuracy" in line] == [
        line for line in figures(undisturbed) if "accuracy" in line
    ]


def test_killed_again_and_again(undisturbed: Path, tmp_path: Path) -> None:
    for stop_at in (4, 7, 7, 10):
        with pytest.raises(Stop):
            train(Toy(stop_at), tmp_path)
    train(Toy(), tmp_path)
    assert all(torch.equal(value, written(undisturbed)[key]) for key, value in written(tmp_path).items())


def test_a_finished_run_is_only_written_again(undisturbed: Path, tmp_path: Path) -> None:
    train(Toy(), tmp_path)
    (tmp_path / "done.json").unlink()
    again = Toy()
    train(again, tmp_path)
    assert again.steps == []
    assert all(torch.equal(value, written(undisturbed)[key]) for key, value in written(tmp_path).items())
    assert json.loads((tmp_path / "done.json").read_text())["evaluation"] == {"accuracy": 0.5}


def test_frozen_weights_stay(undisturbed: Path) -> None:
    start = Toy().model.state_dict()
    assert torch.equal(written(undisturbed)["0.weight"], start["0.weight"])
    assert not torch.equal(written(undisturbed)["1.weight"], start["1.weight"])


def test_other_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train(Toy(5), tmp_path, "first")
    before = contents(tmp_path / "states")
    with pytest.raises(InvalidArgument, match=f"settings first, not second: delete {tmp_path} to start anew"):
        train(Toy(), tmp_path, "second")
    assert contents(tmp_path / "states") == before


def test_a_missed_gate_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match=r"toy missed its gate: accuracy 0\.5000 < 0\.75"):
        train(Toy(gate={"accuracy": 0.75}), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "states"]


def test_a_gate_that_is_reached(tmp_path: Path) -> None:
    train(Toy(gate={"accuracy": 0.5}), tmp_path)
    assert json.loads((tmp_path / "done.json").read_text())["evaluation"] == {"accuracy": 0.5}


def test_a_gate_on_an_unknown_figure_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="toy's gate names acuracy, known are accuracy"):
        train(Toy(gate={"acuracy": 0.5}), tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    toy = Toy()
    with torch.no_grad():
        toy.last.weight.fill_(math.inf)
    with pytest.raises(FailedPrecondition, match="toy: gradient norm .* at step 0"):
        train(toy, tmp_path)
    assert contents(tmp_path / "states") == {}


@pytest.mark.parametrize("left", ["half a state", "a state before it is the last", "half a pointer"])
def test_a_kill_while_saving(left: str, undisturbed: Path, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train(Toy(7), tmp_path)
    states, last = tmp_path / "states", tmp_path / "states" / "step-00000006"
    assert (states / "LAST").read_text() == "step-00000006\n"
    later = states / ("step-00000009" if left == "a state before it is the last" else "step-00000009.partial")
    if left == "half a pointer":
        (states / "LAST.partial").write_text("step-0")
    else:
        shutil.copytree(last, later)
    if left == "half a state":
        (later / ".metadata").unlink()
        (later / "__0_0.distcp").write_bytes(b"half")
    again = Toy()
    train(again, tmp_path)
    assert again.steps[0] == 6
    assert all(torch.equal(value, written(undisturbed)[key]) for key, value in written(tmp_path).items())
    assert sorted(path.name for path in states.iterdir()) == ["LAST", "step-00000011"]


def test_metrics_are_cut_to_the_resumed_step(undisturbed: Path, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train(Toy(5), tmp_path)
    assert [line["step"] for line in lines(tmp_path)] == [4]
    train(Toy(), tmp_path)  # from step 3: what was said of step 4 is said again, once
    assert [line["step"] for line in lines(tmp_path)] == [line["step"] for line in lines(undisturbed)] == [4, 8, 11, 11]
    seconds = [line["seconds"] for line in lines(tmp_path)]
    assert seconds == sorted(seconds)


def test_half_a_line_of_metrics(undisturbed: Path, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train(Toy(10), tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "lo')
    train(Toy(), tmp_path)
    assert [line["step"] for line in lines(tmp_path)] == [4, 8, 11, 11]


def test_a_full_disk_leaves_metrics_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train(Toy(10), tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            train(Toy(), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_metrics_are_means(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", 0)
    for value in (1.0, 2.0, 6.0):
        log.add({"loss": torch.tensor(value, requires_grad=True)})
    assert log.flush(3) == {"loss": 3.0}
    log.add({"loss": torch.tensor(5.0)})
    assert log.flush(4) == {"loss": 5.0}
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [(3, 3.0), (4, 5.0)]


def test_learning_rate() -> None:
    config = Stage(**(CONFIG | {"steps": 100, "warmup_steps": 10, "learning_rate": 2.0, "lr_floor": 0.1}))
    rates = [learning_rate(config, step) for step in range(101)]
    assert rates[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert rates[10] == 2.0
    assert rates[55] == pytest.approx(2.0 * (0.1 + 0.9 / 2))
    assert rates[100] == pytest.approx(0.2)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    steady = Stage(**(CONFIG | {"warmup_steps": 0, "lr_floor": 1.0}))
    assert {learning_rate(steady, step) for step in range(STEPS)} == {0.05}


def test_groups_have_learning_rates_of_their_own(tmp_path: Path) -> None:
    run = StageRun(Toy(), tmp_path, "d")
    for step in range(4):
        rate = run.advance()["learning_rate"].item()
        assert rate == pytest.approx(learning_rate(run.config, step))
        assert [group["lr"] for group in run.optimizers[0].param_groups] == pytest.approx([rate, rate / 2])


def test_ema() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 1.0)
    ema = Ema(module, 0.5)
    average = 1.0
    for step in range(20):
        with torch.no_grad():
            module.weight.fill_(step + 2.0)
        ema.update(module, step)
        decay = min(0.5, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * (step + 2.0)
        assert ema.weights["weight"].item() == pytest.approx(average)


def test_the_average_is_judged_and_written_and_training_goes_on_without_it(tmp_path: Path) -> None:
    toy = Toy()
    run = StageRun(toy, tmp_path, "d")
    for _ in range(5):
        run.advance()
    own = toy.first.weight.detach().clone()
    with run.averaged():
        assert torch.equal(toy.first.weight, run.ema.weights["1.weight"])  # type: ignore[union-attr]
        assert not torch.equal(toy.first.weight, own)
        assert not toy.model.training
    assert torch.equal(toy.first.weight, own)
    assert toy.model.training


def test_without_average(tmp_path: Path) -> None:
    toy = Toy(ema_decay=0.0)
    train(toy, tmp_path)
    assert torch.equal(written(tmp_path)["1.weight"], toy.first.weight)


@pytest.mark.parametrize("loses", ["to zeros", "to noise", "altogether", "nothing"])
def test_compiled_code_that_loses_gradients_is_not_used(loses: str) -> None:
    toy = LosesGradients(loses)
    before = {key: value.clone() for key, value in toy.model.state_dict().items()}
    assert compile_checked(toy, 0) == toy.compiled == (loses == "nothing")
    assert all(p.grad is None for p in toy.model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in toy.model.state_dict().items())


def test_reports(tmp_path: Path) -> None:
    reports = train(Toy(), tmp_path)
    assert [report["step"] for report in reports] == [4, 8, 11, 11]
    assert reports[-2].keys() >= {"loss", "gradient_norm", "learning_rate", "steps"}
    assert reports[-1]["accuracy"] == 0.5
