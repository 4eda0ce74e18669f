"""Where a mix is made: the recipe it is made by, and the path of everything in it.

    index.json  card.html  bad.jsonl  duplicates.jsonl  shard-00000.tar  shard-00000.json  ...
    work/mix.json                         the recipe, and the folder its paths are relative to
    work/<source>/read.json               how many records there are, and where each piece of them begins
    work/<source>/records-<run>.jsonl  bad-<run>.jsonl     by the run that read.json names
    work/<source>/pictures/...            those that stood within the source's own files, under their digests
    work/<source>/scan-00000.jsonl ...    one for each piece: what was found out about its records
    work/plan.json  work/plan/00000.jsonl ...   the records of each shard

Every file appears whole. What exists is done: a step that finds its output does nothing.
"""

from functools import cached_property
from pathlib import Path
from typing import Any, Self

from services.trainer.data.files import read_json, write_json
from services.trainer.data.lengths import Cutter
from services.trainer.data.mix import Mix
from services.trainer.data.sources.base import Source
from triptych.errors import FailedPrecondition, InvalidArgument


class MixFolder:
    """A folder in which a mix is being made, or was."""

    def __init__(self, out: Path | str) -> None:
        self.out = Path(out)
        self.work = self.out / "work"

    @classmethod
    def begin(cls, mix: Mix, out: Path, root: Path) -> Self:
        """Checks all there is to check before work starts; relative paths of the mix are taken from `root`.

        Raises InvalidArgument: a source that is missing or empty, a tokenizer that cannot be read, or a folder in which
        another mix has been begun.
        """
        folder, under = cls(out), mix.under(root)
        if out.exists() and not out.is_dir():
            raise InvalidArgument(f"{out} is a file")
        if folder._begun_by() not in (None, mix.digest):
            raise InvalidArgument(f"{out} was begun by another recipe: go on with that one, or take another folder")
        if folder.is_finished():
            return folder
        if under.length:
            Cutter(under.length)
        for config in under.sources:
            under.source(config.name).check()
        begun = {"digest": mix.digest, "root": str(root), "mix": mix.model_dump(mode="json")}
        write_json(folder.work / "mix.json", begun)
        return folder

    def is_finished(self) -> bool:
        """Nothing is left to do; `work`, and the sources, may be gone."""
        return self.card.exists() and self.index.exists()

    def _begun_by(self) -> str | None:
        """The digest of the recipe whose work this is; None for a new folder. Shards outlive `work`, and are gone on
        from as well."""
        for path in (self.work / "mix.json", self.index):
            if path.exists():
                return str(read_json(path)["digest"])
        return "unknown" if next(self.out.glob("shard-*"), None) else None

    @cached_property
    def mix(self) -> Mix:
        """As it was begun, its paths absolute. Raises FailedPrecondition when it was not."""
        path = self.work / "mix.json"
        if not path.exists():
            raise FailedPrecondition(f"no mix was begun in {self.out}")
        values = read_json(path)
        return Mix.model_validate(values["mix"]).under(Path(values["root"]))

    def source(self, name: str) -> Source:
        return self.mix.source(name, self.work / name)

    def read_mark(self, name: str) -> Path:
        return self.work / name / "read.json"

    def records(self, name: str, run: str | None = None) -> Path:
        """Of the run that finished first, unless another is named: two at the same time do not share files."""
        return self.work / name / f"records-{run or self._mark(self.read_mark(name))['run']}.jsonl"

    def bad(self, name: str, run: str | None = None) -> Path:
        return self.work / name / f"bad-{run or self._mark(self.read_mark(name))['run']}.jsonl"

    def scan(self, name: str, piece: int) -> Path:
        return self.work / name / f"scan-{piece:05d}.jsonl"

    @property
    def plan_mark(self) -> Path:
        return self.work / "plan.json"

    def plan(self, shard: int) -> Path:
        return self.work / "plan" / f"{shard:05d}.jsonl"

    def shard(self, shard: int) -> Path:
        return self.out / f"shard-{shard:05d}.tar"

    def contents(self, shard: int) -> Path:
        """What a shard holds and where; written after it, so it marks the shard as done."""
        return self.out / f"shard-{shard:05d}.json"

    @property
    def index(self) -> Path:
        return self.out / "index.json"

    @property
    def card(self) -> Path:
        return self.out / "card.html"

    def num_pieces(self, name: str) -> int:
        return len(self._mark(self.read_mark(name))["pieces"])

    def num_shards(self) -> int:
        return int(self._mark(self.plan_mark)["num_shards"])

    def _mark(self, path: Path) -> dict[str, Any]:
        if not path.exists():
            raise FailedPrecondition(f"{path.name} of {self.out}: the step before has not been done")
        values: dict[str, Any] = read_json(path)
        return values

    def plan_counts(self) -> dict[str, Any]:
        """Of every source: records read, bad by reason, duplicates, usable, in the mix."""
        counts: dict[str, Any] = self._mark(self.plan_mark)["counts"]
        return counts

    def piece_offset(self, name: str, piece: int) -> int:
        """Where a piece begins in `records`. Raises InvalidArgument."""
        pieces = self._mark(self.read_mark(name))["pieces"]
        if not 0 <= piece < len(pieces):
            raise InvalidArgument(f"source {name}: piece {piece} of {len(pieces)}")
        return int(pieces[piece])
