"""Training states: written in the background, there whole or not at all, read back at any number of ranks."""

import datetime
import json
import os
import pickle
import shutil
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from services.trainer.ranks import Ranks
from triptych.errors import CheckpointError, FailedPrecondition, InvalidArgument, ResourceExhausted

SAVE_TIMEOUT_S = 3600  # for the slowest rank to write its part, and for rank 0 to write what the stage made
LAST = "LAST"
ABOUT = "about.json"
# Of a file cut off or overwritten; unpickling says what it stumbles over in many ways.
UNREADABLE = (
    OSError,
    EOFError,
    pickle.UnpicklingError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ImportError,
)


@dataclass(frozen=True)
class _Pending:
    step: int
    partial: Path
    future: Future[Any]


class States:
    """`folder/step-00000250/` and so on, and `folder/LAST`, the name of the newest that is whole.

    All ranks need the same folder. Saving runs beside training, over a group of its own: one that both use would mix
    up their messages.
    """

    def __init__(self, folder: Path, digest: str, ranks: Ranks, keep: int) -> None:
        self.folder, self.digest, self.ranks, self.keep = folder, digest, ranks, keep
        self._pending: _Pending | None = None
        self._group: dist.ProcessGroup | None = None

    def open(self) -> int | None:
        """The step to go on from, None for a new run. Clears away what a killed run left half-written.

        Raises InvalidArgument when other settings made the state, CheckpointError when it is damaged; then nothing is
        touched. Raises FailedPrecondition when this rank does not see what rank 0 does. Every rank must call it.
        """
        if dist.is_initialized():
            self._group = dist.new_group(backend="gloo", timeout=datetime.timedelta(seconds=SAVE_TIMEOUT_S))
        last = self._first_ranks_last()
        if last is not None:
            self._check(last)
        self.wait_for_all()
        if self.ranks.is_first:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._clear(last)
        self.wait_for_all()
        if not self.folder.is_dir():
            raise FailedPrecondition(f"rank {self.ranks.rank} does not see {self.folder}: all nodes need it")
        return _step(last) if last else None

    def wait_for_all(self) -> None:
        """Until every rank has come here."""
        if self._group is not None:
            dist.barrier(group=self._group)

    def tensors(self, step: int) -> dict[str, tuple[int, ...]]:
        """Names and shapes of what was saved. Raises CheckpointError when they cannot be read."""
        path = self._path(step)
        try:
            metadata = FileSystemReader(path).read_metadata()
        except UNREADABLE as error:
            raise CheckpointError(f"{path} cannot be read: .metadata: {_cause(error)}") from error
        return {key: tuple(about.size) for key, about in metadata.state_dict_metadata.items()}  # type: ignore[union-attr]

    def load(self, step: int, tensors: dict[str, Tensor]) -> None:
        """Into the given tensors, sharded as they are. Raises CheckpointError when the state cannot be read."""
        path = self._path(step)
        try:
            load(tensors, storage_reader=FileSystemReader(path), process_group=self._group, no_dist=self._group is None)
        except CheckpointException as error:
            raise CheckpointError(f"{path} cannot be read: {_cause(error)}") from error

    def save(self, step: int, tensors: dict[str, Tensor]) -> None:
        """Returns when the tensors are copied; a save still under way is waited for first. Every rank must call it.

        Raises ResourceExhausted when that one could not be written.
        """
        self.finish()
        partial = self._path(step).with_suffix(".partial")
        writer = FileSystemWriter(partial)
        saved = async_save(tensors, storage_writer=writer, process_group=self._group, no_dist=self._group is None)
        assert isinstance(saved, Future)  # the writer stages by itself, so there is one future
        self._pending = _Pending(step, partial, saved)

    def poll(self) -> None:
        """Publishes a save that is through; never waits. Raises as `finish`."""
        if self._pending and self._pending.future.done():
            self.finish()

    def finish(self) -> None:
        """Waits for the save under way and publishes it.

        Raises ResourceExhausted when it could not be written; the one before stays the last.
        """
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        try:
            pending.future.result()
            if self.ranks.is_first:
                self._publish(pending)
        except (CheckpointException, OSError) as error:
            if self.ranks.is_first:
                shutil.rmtree(pending.partial, ignore_errors=True)
            last = self._last() or "none"
            raise ResourceExhausted(
                f"the training state of step {pending.step} could not be written to {self.folder}: {_cause(error)}; "
                f"the last whole one is {last}"
            ) from error

    def _publish(self, pending: _Pending) -> None:
        about = {"digest": self.digest, "step": pending.step, "world_size": self.ranks.world_size}
        _write(pending.partial / ABOUT, json.dumps(about) + "\n")
        path = self._path(pending.step)
        pending.partial.rename(path)
        _write(self.folder / f"{LAST}.partial", path.name + "\n")
        (self.folder / f"{LAST}.partial").rename(self.folder / LAST)
        for old in self._steps()[: -self.keep]:
            shutil.rmtree(old)

    def _last(self) -> str | None:
        path = self.folder / LAST
        return path.read_text().strip() if path.exists() else None

    def _first_ranks_last(self) -> str | None:
        """A network file system may show the other ranks an older one."""
        seen = [self._last() if self.ranks.is_first else None]
        if self._group is not None:
            dist.broadcast_object_list(seen, src=0, group=self._group)
        return seen[0]

    def _check(self, last: str) -> None:
        about = self.folder / last / ABOUT
        if not about.exists() and not self.ranks.is_first:
            raise FailedPrecondition(f"rank {self.ranks.rank} does not see {about}: all nodes need it")
        try:
            made_by = json.loads(about.read_text())["digest"]
        except UNREADABLE as error:
            raise CheckpointError(
                f"{self.folder / last} cannot be read, though {LAST} names it: {ABOUT}: {_cause(error)}"
            ) from error
        if made_by != self.digest:
            raise InvalidArgument(
                f"{self.folder / last} was made by settings {made_by}, not {self.digest}: "
                f"delete {self.folder.parent} to start anew"
            )

    def _clear(self, last: str | None) -> None:
        """What is half-written, and what is whole but was not yet the last: its step is done again."""
        for path in self.folder.glob("*.partial"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in self._steps():
            if last is None or path.name > last:
                shutil.rmtree(path)

    def _steps(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("step-*") if path.suffix != ".partial")

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"


def _step(name: str) -> int:
    return int(name.removeprefix("step-"))


def _write(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _cause(error: BaseException) -> str:
    """What each rank that failed says; some errors have no words."""
    if not isinstance(error, CheckpointException):
        return str(error) or repr(error)
    return ", ".join(f"rank {rank}: {_cause(failure[0])}" for rank, failure in error.failures.items())
