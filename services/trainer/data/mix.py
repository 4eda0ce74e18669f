"""A mix: which sources, in which shares, cleaned and cut how. One TOML file, checked before any work starts."""

import hashlib
import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, model_validator

from services.trainer.data.fingerprints import NUM_PERMUTATIONS
from services.trainer.data.pictures import MAX_PIXELS
from services.trainer.data.sources import SOURCES
from services.trainer.data.sources.base import NAME, Source, SourceConfig
from services.trainer.toml_file import checked, read_toml
from triptych.errors import FailedPrecondition, InvalidArgument

PERCENT = 100.0
TOLERANCE = 0.01  # published percentages are rounded to two places


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Dedup(_Frozen):
    """Two records are one when their task and every picture of theirs is, and their texts are this similar."""

    enabled: bool = True
    picture_distance: int = Field(15, ge=0, le=15, description="bits of 256 in which hashes of one picture may differ")
    text_similarity: float = Field(0.8, ge=0.6, le=1, description=f"Jaccard, estimated from {NUM_PERMUTATIONS} hashes")


class Length(_Frozen):
    """Records are cut at so many tokens, as the model will read them."""

    tokenizer: Path = Field(description="a folder with tokenizer.json")
    max_tokens: int = Field(2048, ge=64)
    num_image_tokens: int = Field(576, ge=1, description="places of a picture that is looked at")
    template: Literal["vicuna_v1", "mistral_instruct", "genllava"] = "vicuna_v1"


def _source_config(value: object) -> object:
    """The reader's own Config for a table that names its type."""
    if isinstance(value, SourceConfig) or not isinstance(value, dict):
        return value
    if "type" not in value:
        raise ValueError(f"no type, known: {', '.join(sorted(SOURCES))}")
    return SOURCES.load(str(value["type"])).Config.model_validate(value)


class Mix(_Frozen):
    """`shares`: percent of the samples that each group of sources has, 100 in all; within a group, sources are in
    proportion to what they have. `size`: samples in all; by default as many as the shares allow.
    """

    name: str = Field(pattern=NAME)
    seed: int = Field(0, ge=0)
    size: int | None = Field(None, ge=1)
    samples_per_shard: int = Field(1000, ge=1)
    records_per_piece: int = Field(2000, ge=1, description="looked at by one task")
    max_pixels: int = Field(MAX_PIXELS, ge=1)
    shares: dict[str, float] = Field(min_length=1)
    dedup: Dedup = Dedup()
    length: Length | None = None
    sources: tuple[Annotated[SerializeAsAny[SourceConfig], BeforeValidator(_source_config)], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        total = sum(self.shares.values())
        if not all(math.isfinite(share) and share > 0 for share in self.shares.values()):
            raise ValueError(f"shares must be above 0, not {self.shares}")
        if round(abs(total - PERCENT), 6) > TOLERANCE:
            raise ValueError(f"shares add up to {total:.2f}, not 100 percent")
        names = [source.name for source in self.sources]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"sources named twice: {', '.join(repeated)}")
        groups = {source.group for source in self.sources}
        if groups != set(self.shares):
            raise ValueError(f"groups of sources {sorted(groups)} are not those with shares {sorted(self.shares)}")
        return self

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises InvalidArgument naming the file, the key and what is wrong with it."""
        return checked(cls, read_toml(path, "mix"), path, "mix")

    @property
    def digest(self) -> str:
        """Identity of the recipe: work is gone on with only under the same one."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()[:16]

    def under(self, root: Path) -> Self:
        """The same mix with relative paths taken from `root`, for processes that run elsewhere."""
        sources = tuple(_under(source, root) for source in self.sources)
        length = _under(self.length, root) if self.length else None
        return self.model_copy(update={"sources": sources, "length": length})

    def source(self, name: str, work: Path | None = None) -> Source:
        """The reader of a source, and the folder it may write to. Raises InvalidArgument listing the known names."""
        for config in self.sources:
            if config.name == name:
                made: Source = SOURCES.load(config.type)(config, self.seed, work)
                return made
        raise InvalidArgument(f"unknown source {name!r}, known: {', '.join(c.name for c in self.sources)}")

    def quotas(self, available: dict[str, int]) -> dict[str, int]:
        """How many records each source gives. Raises FailedPrecondition when a group has too few for `size`."""
        groups = {group: {c.name: available[c.name] for c in self.sources if c.group == group} for group in self.shares}
        whole = sum(self.shares.values())  # 100, but for rounding
        # To six places, as 2889 is 9.63 % of 30,000, and of 29,999.999999999996.
        largest = min(int(round(sum(groups[g].values()) * whole / share, 6)) for g, share in self.shares.items())
        size = largest if self.size is None else self.size
        wanted = apportion(size, self.shares)
        for group, number in wanted.items():
            has = sum(groups[group].values())
            # The largest mix may ask one record too many of the scarcest group, by rounding.
            if number > has and (self.size is not None or number > has + 1):
                raise FailedPrecondition(
                    f"group {group}: {number} samples wanted for {size} in all, {has} usable; at most {largest} in all"
                )
            wanted[group] = min(number, has)
        return {name: n for group, number in wanted.items() for name, n in apportion(number, groups[group]).items()}


def apportion(total: int, weights: dict[str, float] | dict[str, int]) -> dict[str, int]:
    """Whole numbers in proportion to the weights that add up to `total` (largest remainders first, then by name)."""
    whole = sum(weights.values())
    if not whole:
        return dict.fromkeys(weights, 0)
    exact = {name: total * weight / whole for name, weight in weights.items()}
    floors = {name: int(share) for name, share in exact.items()}
    by_rest = sorted(weights, key=lambda name: (floors[name] - exact[name], name))
    for name in by_rest[: total - sum(floors.values())]:
        floors[name] += 1
    return floors


def _under(config: Any, root: Path) -> Any:
    return config.model_copy(update={key: root / value for key, value in config if isinstance(value, Path)})
