"""Golden probes: what passes, what does not, and what the error says."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import save_file

from tests.triptych.test_card import CARD
from triptych.card import Card, Probes
from triptych.errors import CheckpointError, ProbeError
from triptych.serving.probes import check_probes, read_probes

Array = npt.NDArray[Any]
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(4, 8)).astype(np.float32), RNG.normal(size=(4, 8)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tensors = {"a/in/x": X, "a/in/y": Y, "a/out": X + Y, "b/in/x": Y, "b/in/y": Y, "b/out": Y + Y}
    save_file(tensors, tmp_path / "probes.safetensors")
    return tmp_path


def add(name: str, inputs: dict[str, Array]) -> Array:
    return np.asarray(inputs["x"] + inputs["y"])


def test_the_same_arithmetic_passes(folder: Path) -> None:
    assert check_probes(CARD, folder, add) == pytest.approx(1.0)


def test_each_probe_runs_once_with_its_inputs(folder: Path) -> None:
    seen: list[tuple[str, list[str]]] = []

    def run(name: str, inputs: dict[str, Array]) -> Array:
        seen.append((name, sorted(inputs)))
        return add(name, inputs)

    check_probes(CARD, folder, run)
    assert seen == [("a", ["x", "y"]), ("b", ["x", "y"])]


def test_returns_the_worst_cosine(folder: Path) -> None:
    def run(name: str, inputs: dict[str, Array]) -> Array:
        exact = add(name, inputs)
        return exact + (0.02 * X if name == "b" else 0)

    worst = check_probes(CARD, folder, run)
    expected, found = (Y + Y).ravel().astype(np.float64), (Y + Y + 0.02 * X).ravel().astype(np.float64)
    assert worst == pytest.approx(expected @ found / np.linalg.norm(expected) / np.linalg.norm(found))
    assert 0.999 < worst < 1.0


def test_a_miss_names_component_probe_cosine_and_bar(folder: Path) -> None:
    message = r"encoder siglip-tiny\+mlp 1\.2\.0: probe 'a' reaches cosine 0\.\d{6}, must be at least 0\.999"
    with pytest.raises(ProbeError, match=message):
        check_probes(CARD, folder, lambda _, inputs: inputs["x"])


@pytest.mark.parametrize("found", [np.full((4, 8), np.nan), np.zeros((4, 8)), np.full((4, 8), np.inf)])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_nan_zero_and_infinity_fail(folder: Path, found: Array) -> None:
    with pytest.raises(ProbeError, match="reaches cosine"):
        check_probes(CARD, folder, lambda _, __: found)


def test_another_shape_fails(folder: Path) -> None:
    with pytest.raises(ProbeError, match=r"probe 'a' gives shape \(8, 4\), must be \(4, 8\)"):
        check_probes(CARD, folder, lambda _, inputs: inputs["x"].T)


def test_all_zeros_match_all_zeros(tmp_path: Path) -> None:
    save_file({"a/in/x": X, "a/out": np.zeros_like(X)}, tmp_path / "probes.safetensors")
    assert check_probes(CARD, tmp_path, lambda _, inputs: inputs["x"] * 0) == 1.0


def test_a_card_without_probes_must_not_serve(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="has no golden probes"):
        check_probes(replace(CARD, probes=None), folder, add)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"probes\.safetensors"):
        check_probes(CARD, tmp_path, add)


def test_the_card_names_the_file(folder: Path) -> None:
    (folder / "probes.safetensors").rename(folder / "other.safetensors")
    card: Card = replace(CARD, probes=Probes("other.safetensors", 0.9))
    assert check_probes(card, folder, add) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "tensors",
    [{"a/in/x": X}, {"a/out": X}, {}, {"a/in/x": X, "b/out": X}, {"a/in/x/y": X, "a/out": X}, {"x": X}],
)
def test_malformed_files(tmp_path: Path, tensors: dict[str, Array]) -> None:
    save_file(tensors, tmp_path / "p.safetensors")
    with pytest.raises(CheckpointError, match=r"p\.safetensors"):
        read_probes(tmp_path / "p.safetensors")


def test_garbage_is_a_checkpoint_error(tmp_path: Path) -> None:
    (tmp_path / "p.safetensors").write_bytes(b"not a tensor file")
    with pytest.raises(CheckpointError, match=r"p\.safetensors"):
        read_probes(tmp_path / "p.safetensors")
