"""Fourth step: one shard, a tar file as WebDataset reads them.

Sample 17 is `000000017.json` and its pictures `000000017.0.jpg`, `000000017.1.png`, ... in the conversation's order,
bytes as published. Headers hold no times, owners or names of this machine: the same records give the same bytes.
"""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any, BinaryIO

from services.trainer.data.files import atomic, read_json, read_lines, write_json
from services.trainer.data.folder import MixFolder
from services.trainer.data.lengths import Cutter
from services.trainer.data.pictures import picture_bytes, picture_suffix
from services.trainer.data.records import BadRecord, Record
from services.trainer.data.sources.base import below
from triptych.errors import FailedPrecondition, InvalidArgument


def write_shard(out: Path | str, shard: int) -> None:
    """Writes `shard-NNNNN.tar`, and `.json` with what it holds. Idempotent; needs the plan.

    Raises FailedPrecondition when a picture is not what it was when it was scanned.
    """
    folder = MixFolder(out)
    if not 0 <= shard < folder.num_shards():
        raise InvalidArgument(f"shard {shard} of {folder.num_shards()}")
    if folder.contents(shard).exists() and folder.shard(shard).exists():
        return
    first = shard * folder.mix.samples_per_shard
    writer = _SampleWriter(folder)
    with atomic(folder.shard(shard)) as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            rows = enumerate(read_lines(folder.plan(shard)))
            samples = [writer.write(tar, f"{first + index:09d}", planned) for index, planned in rows]
        num_bytes, digest = file.tell(), _sha256(file)
    contents = {"file": folder.shard(shard).name, "num_bytes": num_bytes, "sha256": digest, "samples": samples}
    write_json(folder.contents(shard), contents)


def write_index(out: Path | str) -> None:
    """Last step but the card: `index.json`, which makes the folder readable. Needs every shard."""
    folder = MixFolder(out)
    shards = []
    for shard in range(folder.num_shards()):
        path = folder.contents(shard)
        if not path.exists():
            raise FailedPrecondition(f"{folder.shard(shard).name} has not been written")
        contents = read_json(path)
        shards.append({**contents, "samples": len(contents["samples"])})
    mix = folder.mix
    index = {
        "name": mix.name,
        "digest": read_json(folder.work / "mix.json")["digest"],
        "seed": mix.seed,
        "num_samples": sum(shard["samples"] for shard in shards),
        "shares": mix.shares,
        "groups": {config.name: config.group for config in mix.sources},
        "counts": folder.plan_counts(),
        "shards": shards,
    }
    write_json(folder.index, index)


class _SampleWriter:
    """Adds samples to a tar file; keeps the sources' record files open."""

    def __init__(self, folder: MixFolder) -> None:
        self.folder, self.mix = folder, folder.mix
        self._cutter = Cutter(self.mix.length) if self.mix.length else None
        self._roots = {config.name: folder.source(config.name).pictures for config in self.mix.sources}
        self._groups = {config.name: config.group for config in self.mix.sources}

    def write(self, tar: tarfile.TarFile, key: str, planned: dict[str, Any]) -> dict[str, Any]:
        """Returns the sample's row of the shard's contents."""
        source = planned["source"]
        record = self._record(source, planned["offset"], planned["num_bytes"])
        pictures = [self._picture(source, *named) for named in zip(record.pictures, planned["sha256s"], strict=True)]
        names = [f"{index}.{suffix}" for index, (_, suffix) in enumerate(pictures)]
        about = {"source": source, "group": self._groups[source], "tokens": planned["tokens"]}
        values = {**record.to_dict(), "pictures": names, **about}
        start = tar.offset
        _add(tar, f"{key}.json", json.dumps(values, ensure_ascii=False).encode("utf-8", "replace"))
        for name, (data, _) in zip(names, pictures, strict=True):
            _add(tar, f"{key}.{name}", data)
        return {
            "key": key,
            "offset": start,
            "num_bytes": tar.offset - start,
            "id": record.id,
            "task": record.task,
            "num_pictures": len(pictures),
            **about,
        }

    def _record(self, source: str, offset: int, num_bytes: int) -> Record:
        with self.folder.records(source).open("rb") as file:
            file.seek(offset)
            record = Record.from_dict(json.loads(file.read(num_bytes)))
        return self._cutter.cut(record)[0] if self._cutter else record

    def _picture(self, source: str, relative: str, sha256: str) -> tuple[bytes, str]:
        try:
            data = picture_bytes(below(self._roots[source], relative))
        except BadRecord as error:
            raise FailedPrecondition(f"source {source}: {error}, but it was there when it was scanned") from None
        if hashlib.sha256(data).hexdigest() != sha256:
            raise FailedPrecondition(f"source {source}: {relative} has changed since it was scanned")
        return data, picture_suffix(data)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o644
    tar.addfile(member, io.BytesIO(data))


def _sha256(file: BinaryIO) -> str:
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    file.seek(0, io.SEEK_END)
    return digest
