"""A steady mixed load, seeded, that compares every answer with what an undisturbed system gave."""

import hashlib
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Self

from PIL import Image

from services.trainer.data.blocks import questions
from services.trainer.data.blocks.language import draw_request
from services.trainer.data.blocks.render import render
from services.trainer.data.blocks.world import sample_scene
from triptych.client import Client
from triptych.errors import ResourceExhausted, TriptychError
from triptych.replies import Drawing, TextDelta
from triptych.requests import ImageSource, Params, Task


@dataclass(frozen=True)
class Job:
    """One request; the same `index` is the same request."""

    index: int
    task: Task
    text: str
    pictures: tuple[ImageSource, ...]
    params: Params


@dataclass(frozen=True)
class Outcome:
    """What came of a request. `answer` is a digest of streamed text and PNG bytes, empty when it failed."""

    index: int
    task: str
    began: float  # time.monotonic
    ms: float
    answer: str
    error: str  # empty, or status and message
    is_refusal: bool = False  # a full queue, said so
    num_tries: int = 1  # by the caller: the services' own tries are not seen from here


def jobs(number: int, steps: int) -> list[Job]:
    """Questions (every other one sampled at a temperature), drawings and edits, in turn."""
    made = []
    for index in range(number):
        rng = random.Random(f"faults/{index}")
        scene = sample_scene(rng, "held_out")
        picture = Image.fromarray(render(scene, index))
        if index % 3 == 0:
            params = Params(seed=index, max_tokens=32, temperature=0.7 if index % 2 else None)
            made.append(Job(index, "understand", questions.ask(scene, rng).text, (picture,), params))
        elif index % 3 == 1:
            params = Params(seed=index, steps=steps, max_tokens=8)
            made.append(Job(index, "generate", draw_request(scene, rng), (), params))
        else:
            params = Params(seed=index, steps=steps, max_tokens=8)
            made.append(Job(index, "edit", "make it blue", (picture,), params))
    return made


def ask(client: Client, job: Job, num_tries: int = 1) -> Outcome:
    """Streams the reply, as a user would. `num_tries`: a caller who asks again when the reply breaks off."""
    began = time.monotonic()
    for number in count(1):
        digest = hashlib.sha256()
        try:
            for event in client.stream(job.text, job.pictures, job.task, job.params):
                if isinstance(event, TextDelta):
                    digest.update(event.text.encode())
                elif isinstance(event, Drawing):
                    digest.update(event.png)
            return Outcome(job.index, job.task, began, _ms_since(began), digest.hexdigest(), "", num_tries=number)
        except TriptychError as error:
            if number < num_tries and error.code == "UNAVAILABLE":
                time.sleep(0.2)
                continue
            refused = isinstance(error, ResourceExhausted)
            return Outcome(job.index, job.task, began, _ms_since(began), "", f"{error.code}: {error}", refused, number)
    raise AssertionError


class Load:
    """`num_callers` threads that each ask one thing after another, from the start of the block to its end."""

    def __init__(self, address: str, todo: Sequence[Job], num_callers: int, timeout_s: float, num_tries: int) -> None:
        self._address = address
        self._todo = todo
        self._timeout_s = timeout_s
        self._num_tries = num_tries
        self._numbers = count()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(num_callers)]
        self.outcomes: list[Outcome] = []

    def _run(self) -> None:
        with Client(self._address, timeout_s=self._timeout_s) as client:
            while not self._stop.is_set():
                job = self._todo[next(self._numbers) % len(self._todo)]
                self.outcomes.append(ask(client, job, self._num_tries))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Requests under way come to their end."""
        self._stop.set()
        for thread in self._threads:
            thread.join()


def _ms_since(began: float) -> float:
    return (time.monotonic() - began) * 1000
