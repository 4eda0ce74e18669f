"""What the engine tells of a picture, in the order of the wire: see decoder.proto."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """`step` of `num_steps` is done; steps count from 1."""

    step: int
    num_steps: int


@dataclass(frozen=True)
class Preview:
    """PNG of the picture as it stands after `step`."""

    png: bytes
    step: int


@dataclass(frozen=True)
class Picture:
    """PNG of the result."""

    png: bytes
    width: int
    height: int


Event = Progress | Preview | Picture
