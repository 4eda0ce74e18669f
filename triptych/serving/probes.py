"""Golden probes: a replica may serve only when its own backend reproduces the outputs that its component came with."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file

from triptych.card import Card
from triptych.cosine import cosine
from triptych.errors import CheckpointError, ProbeError

Array = npt.NDArray[np.generic]
Run = Callable[[str, dict[str, Array]], Array]


def check_probes(card: Card, folder: Path, run: Run) -> float:
    """The worst cosine over all probes, each `run(name, inputs)` against its stored output.

    Raises ProbeError naming component, probe, cosine and bar when one falls short (NaN does), and CheckpointError when
    the card has no probes or their file cannot be read.
    """
    if card.probes is None:
        raise CheckpointError(f"{card.label} has no golden probes: nothing shows that this replica computes it right")
    worst = math.inf
    for name, (inputs, expected) in read_probes(folder / card.probes.file).items():
        found = run(name, inputs)
        if found.shape != expected.shape:
            raise ProbeError(f"{card.label}: probe {name!r} gives shape {found.shape}, must be {expected.shape}")
        reached = cosine(found, expected)
        if not reached >= card.probes.cosine_min:
            raise ProbeError(
                f"{card.label}: probe {name!r} reaches cosine {reached:.6f}, must be at least {card.probes.cosine_min}"
            )
        worst = min(worst, reached)
    return worst


def read_probes(path: Path) -> dict[str, tuple[dict[str, Array], Array]]:
    """Inputs by argument, and the output, of each probe: tensors "NAME/in/ARGUMENT" and "NAME/out"."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError, TypeError, ValueError, AttributeError) as error:  # numpy has no bf16, no float8
        raise CheckpointError(f"{path}: {error}") from error
    inputs: dict[str, dict[str, Array]] = {}
    outputs: dict[str, Array] = {}
    for key, tensor in tensors.items():
        match key.split("/"):
            case [name, "in", argument]:
                inputs.setdefault(name, {})[argument] = tensor
            case [name, "out"]:
                outputs[name] = tensor
            case _:
                raise CheckpointError(f"{path}: tensor {key!r} is neither NAME/in/ARGUMENT nor NAME/out")
    if not outputs or inputs.keys() != outputs.keys():
        raise CheckpointError(f"{path}: has inputs for {sorted(inputs)} and outputs for {sorted(outputs)}")
    return {name: (inputs[name], outputs[name]) for name in sorted(outputs)}
