"""One request in the engine: what it has, what it must run next, when it is over. Plain Python: ids, no tensors."""

import time
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Literal

from services.llm.sampling import SamplingParams

ImagePolicy = Literal["allow", "forbid", "force"]
FinishReason = Literal["stop", "length"]


class State(Enum):
    """Where the scheduler has a sequence."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(frozen=True)
class Prefill:
    """Run the prompt."""


@dataclass(frozen=True)
class DecodeToken:
    """Run one text token."""

    token_id: int


@dataclass(frozen=True)
class DrawImage:
    """Run [SOI] [IMG0] ... [EOI] of the reply's `index`-th picture."""

    index: int


Step = Prefill | DecodeToken | DrawImage
PHASES: Final[dict[type[Step], str]] = {Prefill: "prefill", DecodeToken: "decode", DrawImage: "draw"}


@dataclass(frozen=True)
class Vocabulary:
    """The ids and the limit that decide a sequence's course."""

    eos_id: int
    soi_id: int
    image_ids: tuple[int, ...]  # [SOI] to [EOI]
    max_model_len: int


class Sequence:
    """`prompt` is the runner's business; `step` is what to run next, `advance` takes what came out."""

    def __init__(
        self, prompt: Any, policy: ImagePolicy, sampling: SamplingParams, max_images: int, vocabulary: Vocabulary
    ) -> None:
        self.prompt = prompt
        self.policy = policy
        self.sampling = sampling
        self.max_images = max_images
        self.vocabulary = vocabulary
        self.arrived = time.perf_counter()
        self.state = State.WAITING
        self.step: Step = Prefill()
        self.num_prompt_tokens = 0
        self.num_cached = 0  # tokens that have been run, prompt included
        self.token_ids: list[int] = []  # everything generated, special tokens included
        self.num_text_tokens = 0
        self.num_images = 0
        self.finish_reason: FinishReason | None = None

    @property
    def is_finished(self) -> bool:
        return self.finish_reason is not None

    @property
    def phase(self) -> str:
        """What the next step is, by the name that spans and metrics give it."""
        return PHASES[type(self.step)]

    @property
    def num_images_left(self) -> int:
        return self.max_images - self.num_images

    @property
    def forced_id(self) -> int | None:
        """The token that comes next whatever the model says: a forced reply opens with an image."""
        return self.vocabulary.soi_id if self.policy == "force" and isinstance(self.step, Prefill) else None

    def advance(self, num_run: int, next_id: int) -> bool:
        """`step` has run `num_run` tokens, after which `next_id` comes: sets the next step or finishes. Returns whether
        `next_id` is one more token of the reply's text.

        As `triptych.models.unified.generate`: the end of sequence is kept in `token_ids`, and what would come after
        `max_tokens` text tokens is not.
        """
        self.num_cached += num_run
        if isinstance(self.step, Prefill):
            self.num_prompt_tokens = num_run
        if next_id == self.vocabulary.eos_id:
            self.token_ids.append(next_id)
            self.finish("stop")
        elif self.num_text_tokens == self.sampling.max_tokens:
            self.finish("length")
        elif next_id == self.vocabulary.soi_id:
            self._draw()
        else:
            self._write(next_id)
            return True
        return False

    def finish(self, reason: FinishReason) -> None:
        self.finish_reason = reason

    def _draw(self) -> None:
        image_ids = self.vocabulary.image_ids
        if self.num_cached + len(image_ids) > self.vocabulary.max_model_len:
            self.finish("length")
            return
        self.step = DrawImage(self.num_images)
        self.num_images += 1
        self.token_ids += image_ids

    def _write(self, token_id: int) -> None:
        self.step = DecodeToken(token_id)
        self.num_text_tokens += 1
        self.token_ids.append(token_id)
        if self.num_cached + 1 > self.vocabulary.max_model_len:
            self.finish("length")
