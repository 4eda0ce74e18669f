"""InstructPix2Pix as published: a folder for each prompt with `prompt.json` and picture pairs `{seed}_0.jpg`,
`{seed}_1.jpg`.

`seeds.json` beside the folders lists `[folder, [seed, ...]]`; without it, the folders themselves are looked through.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from services.trainer.data.records import BadRecord, Record
from services.trainer.data.sources.base import Source, SourceConfig, below, json_value, text_of
from triptych.errors import InvalidArgument
from triptych.prompts import Message, Picture

BEFORE, AFTER = "_0.jpg", "_1.jpg"


class InstructPix2PixSource(Source):
    """`path`: the unpacked data set. One record for each pair; its authors draw one pair of a prompt at random."""

    class Config(SourceConfig):
        type: Literal["instructpix2pix"] = "instructpix2pix"
        max_pairs: int = Field(1, ge=1, description="of each prompt, the first by seed")

    config: Config

    @property
    def pictures(self) -> Path:
        return self.config.path

    def entries(self) -> Iterator[Any]:
        """Tuples of folder and seed; what is no folder with seeds, as it stands in the list."""
        for item in self._prompts():
            match item:
                case [str() as folder, [_, *_] as seeds]:
                    yield from ((folder, str(seed)) for seed in seeds[: self.config.max_pairs])
                case _:
                    yield item

    def _prompts(self) -> Iterator[Any]:
        root = self.config.path
        if (root / "seeds.json").is_file():
            listed = json_value(root / "seeds.json")
            if not isinstance(listed, list):
                raise InvalidArgument(f"{root / 'seeds.json'} is no JSON list")
            yield from listed
            return
        for prompt in sorted(root.rglob("prompt.json")):
            seeds = {path.name.removesuffix(end) for end in (BEFORE, AFTER) for path in prompt.parent.glob(f"*{end}")}
            yield [prompt.parent.relative_to(root).as_posix(), sorted(seeds)]

    def record(self, entry: Any, position: int) -> Record:
        if not isinstance(entry, tuple):
            raise _without_pairs(entry)
        folder, seed = entry
        path = below(self.config.path, f"{folder}/prompt.json")
        try:
            instruction = text_of(json_value(path), "edit")
        except InvalidArgument as error:
            raise BadRecord("malformed", str(error)) from None
        messages = (
            Message("user", (Picture(0), instruction)),
            Message("assistant", (Picture(1),)),
        )
        pictures = (f"{folder}/{seed}{BEFORE}", f"{folder}/{seed}{AFTER}")
        made = Record(f"{folder}/{seed}", "edit", messages, pictures)
        made.check()
        return made


def _without_pairs(item: Any) -> BadRecord:
    match item:
        case [str() as folder, []]:
            return BadRecord("picture missing", f"{folder} has no pairs")
        case _:
            return BadRecord("malformed", f"{str(item)[:100]} is not [folder, [seed, ...]]")
