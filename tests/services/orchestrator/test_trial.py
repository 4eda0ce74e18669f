import pytest

from services.orchestrator.trial import Rules, Trials
from triptych.errors import Cancelled, InvalidArgument, TriptychError

OLD, NEW = "old.1", "new.1"


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def beside(clock: Clock, rules: Rules | None = None) -> Trials:
    """A decoder of an older generation, and a newer one beside it."""
    trials = Trials(rules or Rules(num_calls=10, time_s=60), clock)
    look(trials, OLD)
    look(trials, OLD, NEW)
    return trials


def look(trials: Trials, *generations: str) -> None:
    trials.update({"decoder": set(generations)}, {"decoder": set(generations)})


def calls(trials: Trials, generation: str, good: int = 0, bad: int = 0) -> None:
    for failed in (*[False] * good, *[True] * bad):
        trials.ended("decoder", generation, failed=failed)


def test_only_the_newer_one_is_on_trial(clock: Clock) -> None:
    trials = beside(clock)
    assert [trials.is_on_trial("decoder", g) for g in (OLD, NEW)] == [False, True]


def test_what_is_there_at_the_start_is_on_no_trial(clock: Clock) -> None:
    trials = Trials(Rules(), clock)
    look(trials, OLD, NEW)
    assert not trials.is_on_trial("decoder", OLD)
    assert not trials.is_on_trial("decoder", NEW)


def test_calls_that_went_well_end_a_trial(clock: Clock) -> None:
    trials = beside(clock)
    calls(trials, NEW, good=9)
    look(trials, OLD, NEW)
    assert trials.is_on_trial("decoder", NEW)
    calls(trials, NEW, good=1)
    look(trials, OLD, NEW)
    assert not trials.is_on_trial("decoder", NEW)
    assert trials.fault("decoder", NEW) == ""


def test_time_ends_a_trial_of_which_nobody_takes_part(clock: Clock) -> None:
    trials = beside(clock)
    clock.now_s += 59
    look(trials, OLD, NEW)
    assert trials.is_on_trial("decoder", NEW)
    clock.now_s += 1
    look(trials, OLD, NEW)
    assert not trials.is_on_trial("decoder", NEW)


def test_the_older_one_gone_ends_a_trial(clock: Clock) -> None:
    trials = beside(clock)
    trials.update({"decoder": {OLD, NEW}}, {"decoder": {NEW}})
    assert not trials.is_on_trial("decoder", NEW)


@pytest.mark.parametrize(("bad", "is_quarantined"), [(0, False), (1, False), (2, True)])
def test_failures(clock: Clock, bad: int, is_quarantined: bool) -> None:
    trials = beside(clock)
    calls(trials, OLD, good=20)
    calls(trials, NEW, good=5, bad=bad)
    look(trials, OLD, NEW)
    assert bool(trials.fault("decoder", NEW)) == is_quarantined
    assert trials.is_on_trial("decoder", NEW) != is_quarantined


def test_failures_that_the_older_one_has_too_say_nothing(clock: Clock) -> None:
    trials = beside(clock)
    calls(trials, OLD, good=10, bad=10)
    calls(trials, NEW, good=4, bad=5)
    look(trials, OLD, NEW)
    assert trials.fault("decoder", NEW) == ""


def test_quarantine_says_why_and_lasts_until_it_is_gone(clock: Clock) -> None:
    trials = beside(clock)
    calls(trials, OLD, good=20)
    calls(trials, NEW, bad=3)
    look(trials, OLD, NEW)
    assert trials.fault("decoder", NEW) == "3 of its last 3 calls failed, 0 of 20 of the older generation's"
    calls(trials, NEW, good=50)
    look(trials, OLD, NEW)
    assert trials.fault("decoder", NEW)
    look(trials, OLD)
    look(trials, OLD, NEW)
    assert trials.fault("decoder", NEW) == ""
    assert trials.is_on_trial("decoder", NEW)


def test_it_is_watched_after_the_trial_too_while_the_older_one_serves(clock: Clock) -> None:
    trials = beside(clock)
    calls(trials, NEW, good=20)
    look(trials, OLD, NEW)
    calls(trials, NEW, bad=10)
    look(trials, OLD, NEW)
    assert trials.fault("decoder", NEW)


@pytest.mark.parametrize(("unit_ms", "is_quarantined"), [(29.0, False), (31.0, True)])
def test_slowness_is_by_unit_of_work(clock: Clock, unit_ms: float, is_quarantined: bool) -> None:
    trials = beside(clock)
    for _ in range(5):
        trials.took("decoder", OLD, 500.0, 50)
        trials.took("decoder", NEW, 2 * unit_ms, 2)
    look(trials, OLD, NEW)
    assert bool(trials.fault("decoder", NEW)) == is_quarantined


def test_a_few_slow_calls_are_no_proof(clock: Clock) -> None:
    trials = beside(clock)
    for _ in range(4):
        trials.took("decoder", OLD, 10.0, 1)
        trials.took("decoder", NEW, 999.0, 1)
    look(trials, OLD, NEW)
    assert trials.fault("decoder", NEW) == ""


def test_switched_off(clock: Clock) -> None:
    trials = beside(clock, Rules(num_calls=0))
    calls(trials, NEW, bad=9)
    look(trials, OLD, NEW)
    assert not trials.is_on_trial("decoder", NEW)
    assert trials.fault("decoder", NEW) == ""


@pytest.mark.parametrize(
    ("error", "counted"),
    [(TriptychError("bug"), (1, 1)), (InvalidArgument("x"), (0, 0)), (Cancelled("gone"), (0, 0)), (None, (1, 0))],
)
def test_how_calls_count(clock: Clock, error: TriptychError | None, counted: tuple[int, int]) -> None:
    trials = beside(clock)
    try:
        with trials.call("decoder", NEW):
            if error:
                raise error
    except TriptychError:
        pass
    record = trials.record("decoder", NEW)
    assert (record.num_calls, record.num_failed) == counted


def test_an_excused_failure_is_off_the_record(clock: Clock) -> None:
    trials = beside(clock)
    calls(trials, NEW, good=1, bad=2)
    trials.excuse("decoder", NEW)
    record = trials.record("decoder", NEW)
    assert (record.num_calls, record.num_failed, sum(record.failures)) == (2, 1, 1)
    look(trials, OLD, NEW)
    assert trials.fault("decoder", NEW) == ""


def test_calls_of_unknown_generations_are_let_go(clock: Clock) -> None:
    trials = beside(clock)
    trials.ended("llm", "?", failed=True)
    trials.took("llm", "?", 1.0, 1)
    trials.excuse("llm", "?")
    assert trials.record("llm", "?").num_calls == 0
