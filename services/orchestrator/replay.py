"""What a caller has of a reply, so that a redone Generate goes on where the lost one stopped. Plain Python: the same
prompt and seed give the same events, so those that were seen are passed over, and anything else is noticed.
"""

from dataclasses import dataclass
from typing import Literal

from triptych.errors import TriptychError


@dataclass(frozen=True)
class Mark:
    """A place in the reply: a picture was opened, or handed over."""

    kind: Literal["image_start", "hidden_states"]
    index: int


class Replay:
    """Text and marks in order. Give it every event of every attempt; it says what of it is new."""

    def __init__(self) -> None:
        self._seen: list[str | Mark] = []  # no two texts next to each other
        self._at = 0  # where the attempt under way stands in it
        self._offset = 0  # characters of that text which it has repeated

    def rewind(self) -> None:
        """Another attempt begins."""
        self._at, self._offset = 0, 0

    def text(self, value: str) -> str:
        """The part of `value` that nobody has seen. Raises TriptychError when it is not the reply seen before."""
        if not value:
            return ""
        repeated = 0
        if self._at < len(self._seen):
            expected = self._seen[self._at]
            rest = expected[self._offset :] if isinstance(expected, str) else ""
            repeated = min(len(rest), len(value))
            if rest[:repeated] != value[:repeated] or (repeated < len(value) and self._at + 1 < len(self._seen)):
                raise self._another()
            self._offset += repeated
        if fresh := value[repeated:]:
            self._append(fresh)
        return fresh

    def mark(self, mark: Mark) -> bool:
        """Whether it is new. Raises as `text`."""
        self._pass_text()
        if self._at < len(self._seen):
            if self._seen[self._at] != mark:
                raise self._another()
            self._at += 1
            return False
        self._seen.append(mark)
        self._at += 1
        return True

    def end(self) -> None:
        """The attempt says that it is complete. Raises as `text` when more than that was seen."""
        self._pass_text()
        if self._at < len(self._seen):
            raise self._another()

    @property
    def is_empty(self) -> bool:
        return not self._seen

    def _append(self, text: str) -> None:
        last = self._seen[-1] if self._seen else None
        if isinstance(last, str):
            self._seen[-1] = last + text
        else:
            self._seen.append(text)
        self._at = len(self._seen) - 1
        self._offset += len(text)

    def _pass_text(self) -> None:
        """A text that was repeated to its end is over."""
        if self._at < len(self._seen):
            here = self._seen[self._at]
            if isinstance(here, str) and self._offset == len(here):
                self._at, self._offset = self._at + 1, 0

    def _another(self) -> TriptychError:
        return TriptychError(
            "the reply was lost half-way and came out differently when it was redone, so it cannot be gone on with: "
            "replicas of one card must run the same backend, device and dtype",
            stage="llm",
        )
