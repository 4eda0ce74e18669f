"""What a training stage must say: its modules, its loss at a step, how it is judged, what it hands on."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, TypeVar

from torch import Tensor, nn

from services.trainer.config import Recipe, Stage
from services.trainer.ranks import ALONE, Ranks
from services.trainer.sharding import sum_gradients

Part = TypeVar("Part")

T = TypeVar("T")


class Objective(ABC):
    """One stage of a recipe. Batches are pure functions of (seed, stage, step): that alone makes a run resumable.

    With several ranks, `backward` takes this rank's share of the step's batch. Shares add up: losses are divided by
    counts of the whole batch (`ranks.sum`), so that the sum of all ranks' figures and gradients is what one process
    would have got. The engine sums them: gradients at the end of `backward`, figures when it logs. What ranks do
    together they must all do: run `module` equally often, over the same graph (`0 * part(zeros)` where a rank has
    nothing for a part), and return figures of the same names.
    """

    name: str
    needs: tuple[str, ...] = ()
    is_distributed: ClassVar[bool] = False  # whether it knows what to do with more than one rank

    def __init__(self, recipe: Recipe, inputs: dict[str, Path], ranks: Ranks = ALONE) -> None:
        """`inputs` maps each stage in `needs` to the folder of what it made."""
        self.recipe, self.inputs, self.ranks = recipe, inputs, ranks

    @property
    @abstractmethod
    def config(self) -> Stage: ...

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """Holds every trained parameter, and nothing that must not be saved with them. With a distribution its
        parameters are replaced by shards on `ranks.device` after `__init__`: keep no others of them."""

    def blocks(self) -> list[nn.Module]:
        """Modules inside `module` that are sharded one by one, inner before outer: transformer layers, as a rule. What
        is left is sharded with `module` itself, whose `forward` (or that of a block) all computation goes through."""
        return []

    def parameter_groups(self) -> list[dict[str, object]]:
        """Optimizer groups; `lr_scale` multiplies the stage's learning rate; `muon`: matrices, trained by Muon."""
        return [{"params": [p for p in self.module.parameters() if p.requires_grad], "lr_scale": 1.0}]

    def compile(self) -> None:  # noqa: B027 (a stage may have nothing to compile)
        """Swaps in compiled forward passes; by default there are none."""

    def uncompile(self) -> None:  # noqa: B027
        """Goes back to the plain ones."""

    def micro_batches(self, parts: Sequence[Part]) -> Iterator[Part]:
        """The parts of this rank's share, one backward pass of each; gradients cross ranks after the last one only.
        Every rank must have as many."""
        for index, part in enumerate(parts):
            sum_gradients(self.module, index == len(parts) - 1)
            yield part

    @abstractmethod
    def backward(self, step: int) -> dict[str, Tensor]:
        """Computes this step's losses, adds their gradients, and returns the figures to log ("loss" among them): of
        several ranks each its share."""

    @abstractmethod
    def evaluate(self) -> dict[str, float]:
        """Held-out figures of the module as it is. Called on every rank, and the same on every rank (`ranks.sum`)."""

    @abstractmethod
    def write(self, folder: Path) -> None:
        """Writes what later stages and the checkpoint need. Called on rank 0 alone, `module`'s parameters being whole
        there; with a distribution they are on the CPU, and `module` cannot be run."""
