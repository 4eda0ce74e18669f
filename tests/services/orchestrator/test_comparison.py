"""What becomes of a failure on trial when the same work is redone."""

from contextlib import suppress

import pytest

from services.orchestrator.comparison import Comparison
from services.orchestrator.trial import Rules, Trials
from triptych.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted, TriptychError, Unavailable

OLD, NEW, NEWER = "old.1", "new.1", "new.2"


@pytest.fixture
def trials() -> Trials:
    """Two LLMs on trial beside an older one."""
    made = Trials(Rules())
    for generations in ({OLD}, {OLD, NEW}, {OLD, NEW, NEWER}):
        made.update({"llm": generations}, {"llm": generations})
    return made


def redone(trials: Trials, *calls: tuple[str, TriptychError | None], stage: str = "llm") -> Comparison:
    """One request: who was called, and how it ended."""
    comparison = Comparison(trials)
    for generation, error in calls:
        with suppress(TriptychError), comparison.call(stage, generation):
            if error is not None:
                raise error
    return comparison


def counted(trials: Trials, generation: str) -> tuple[int, int]:
    record = trials.record("llm", generation)
    return record.num_calls, record.num_failed


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (InvalidArgument("too long"), InvalidArgument("too long"), (0, 0)),
        (InvalidArgument("a bug"), None, (1, 1)),
        (InvalidArgument("too long"), Unavailable("gone"), (0, 0)),
        (ResourceExhausted("too large"), ResourceExhausted("too large"), (0, 0)),
        (ResourceExhausted("too large"), None, (1, 1)),
        (TriptychError("a bug"), TriptychError("the same bug"), (0, 0)),
        (TriptychError("a bug"), InvalidArgument("too long"), (1, 1)),
        (DeadlineExceeded("slow"), DeadlineExceeded("no time left"), (1, 1)),
        (None, None, (1, 0)),
    ],
)
def test_a_failure_beside_how_the_older_one_fared(
    trials: Trials, first: TriptychError | None, second: TriptychError | None, expected: tuple[int, int]
) -> None:
    redone(trials, (NEW, first), (OLD, second))
    assert counted(trials, NEW) == expected


def test_every_attempt_of_the_request_is_excused(trials: Trials) -> None:
    redone(trials, (NEW, Unavailable("gone")), (NEW, Unavailable("gone")), (OLD, Unavailable("gone")))
    assert counted(trials, NEW) == (0, 0)


def test_another_one_on_trial_is_no_measure(trials: Trials) -> None:
    redone(trials, (NEW, TriptychError("a bug")), (NEWER, TriptychError("a bug")), (OLD, None))
    assert [counted(trials, generation) for generation in (NEW, NEWER)] == [(1, 1), (1, 1)]


def test_another_stage_says_nothing(trials: Trials) -> None:
    comparison = redone(trials, (NEW, TriptychError("a bug")))
    with suppress(TriptychError), comparison.call("encoder", "e.1"):
        raise TriptychError("another bug")
    assert counted(trials, NEW) == (1, 1)


def test_another_request_says_nothing(trials: Trials) -> None:
    redone(trials, (NEW, TriptychError("a bug")))
    redone(trials, (OLD, TriptychError("a bug")))
    assert counted(trials, NEW) == (1, 1)


def test_wrong_requests_roll_nothing_back(trials: Trials) -> None:
    for _ in range(100):
        trials.ended("llm", OLD, failed=False)
    for _ in range(8):
        trials.ended("llm", NEW, failed=False)
    for _ in range(9):
        redone(trials, (NEW, InvalidArgument("too long")), (OLD, InvalidArgument("too long")))
        trials.update({"llm": {OLD, NEW}}, {"llm": {OLD, NEW}})
    assert trials.fault("llm", NEW) == ""
    assert counted(trials, OLD) == (100, 0)
