"""The steps of a mix in order, for whatever runs them: a pool on this machine, or a job queue.

A phase is one step over all its arguments, in any order and on any number of processes; the next one begins when every
mark of it is there.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from services.trainer.data.card import write_card
from services.trainer.data.folder import MixFolder
from services.trainer.data.planning import plan_mix
from services.trainer.data.reading import read_source
from services.trainer.data.scanning import scan_piece
from services.trainer.data.shards import write_index, write_shard

Step = Callable[..., None]
Arguments = tuple[str | int, ...]
STEPS: tuple[Step, ...] = (read_source, scan_piece, plan_mix, write_shard, write_index, write_card)


@dataclass(frozen=True)
class Phase:
    """A step, and for each of its arguments the files that are there when it is done."""

    title: str
    step: Step
    marks: dict[Arguments, tuple[Path, ...]]

    def open(self) -> list[Arguments]:
        """What has not been done."""
        return [arguments for arguments, marks in self.marks.items() if not all(mark.exists() for mark in marks)]


def phases(folder: MixFolder) -> Iterator[Phase]:
    """Ask for the next one when the one before it is done: only then is it known how much there is to do. None of a
    finished mix."""
    if folder.is_finished():
        return
    out, names = str(folder.out), [config.name for config in folder.mix.sources]
    yield Phase("read", read_source, {(out, name): (folder.read_mark(name),) for name in names})
    pieces = [(name, piece) for name in names for piece in range(folder.num_pieces(name))]
    yield Phase("look at", scan_piece, {(out, *piece): (folder.scan(*piece),) for piece in pieces})
    yield Phase("mix", plan_mix, {(out,): (folder.plan_mark,)})
    shards = range(folder.num_shards())
    yield Phase("write", write_shard, {(out, shard): (folder.shard(shard), folder.contents(shard)) for shard in shards})
    yield Phase("index", write_index, {(out,): (folder.index,)})
    yield Phase("card", write_card, {(out,): (folder.card,)})
