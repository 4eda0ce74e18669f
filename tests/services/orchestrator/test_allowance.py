import pytest

from services.orchestrator.allowance import Allowances
from triptych.errors import ResourceExhausted


class Clock:
    def __init__(self, now_s: float = 10 * 86_400.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


def test_minute_fills_steadily() -> None:
    clock = Clock()
    allowances = Allowances(clock)
    for _ in range(6):
        allowances.take("a", "alice", 6, 0)
    with pytest.raises(ResourceExhausted, match="alice has used its 6 requests a minute") as refused:
        allowances.take("a", "alice", 6, 0)
    assert refused.value.retry_after_ms == 10_000
    clock.now_s += 9.9
    with pytest.raises(ResourceExhausted):
        allowances.take("a", "alice", 6, 0)
    clock.now_s += 0.2
    allowances.take("a", "alice", 6, 0)


def test_day_ends_at_midnight_utc() -> None:
    clock = Clock(10 * 86_400.0 - 30)
    allowances = Allowances(clock)
    allowances.take("a", "alice", 0, 1)
    with pytest.raises(ResourceExhausted, match="a day") as refused:
        allowances.take("a", "alice", 0, 1)
    assert refused.value.retry_after_ms == 30_000
    clock.now_s += 30
    allowances.take("a", "alice", 0, 1)


def test_callers_do_not_share_and_zero_is_no_bound() -> None:
    allowances = Allowances(Clock())
    allowances.take("a", "alice", 1, 1)
    allowances.take("b", "bob", 1, 1)
    for _ in range(100):
        allowances.take("c", "carol", 0, 0)
    with pytest.raises(ResourceExhausted):
        allowances.take("a", "alice", 1, 1)


def test_a_clock_that_goes_back_gives_nothing_away() -> None:
    clock = Clock()
    allowances = Allowances(clock)
    allowances.take("a", "alice", 1, 0)
    clock.now_s -= 3600
    with pytest.raises(ResourceExhausted):
        allowances.take("a", "alice", 1, 0)


def test_what_is_given_back_can_be_taken_again() -> None:
    allowances = Allowances(Clock())
    day = allowances.take("a", "alice", 1, 1)
    allowances.give_back("a", day)
    allowances.take("a", "alice", 1, 1)
    with pytest.raises(ResourceExhausted):
        allowances.take("a", "alice", 1, 1)


def test_yesterdays_request_is_not_given_back_today() -> None:
    clock = Clock(10 * 86_400.0 - 30)
    allowances = Allowances(clock)
    day = allowances.take("a", "alice", 0, 1)
    clock.now_s += 30
    allowances.take("a", "alice", 0, 1)
    allowances.give_back("a", day)
    with pytest.raises(ResourceExhausted):
        allowances.take("a", "alice", 0, 1)


def test_a_minute_holds_no_more_than_its_requests() -> None:
    clock = Clock()
    allowances = Allowances(clock)
    day = allowances.take("a", "alice", 2, 0)
    clock.now_s += 60
    allowances.give_back("a", day)
    for _ in range(2):
        allowances.take("a", "alice", 2, 0)
    with pytest.raises(ResourceExhausted):
        allowances.take("a", "alice", 2, 0)


def test_memory_is_bounded() -> None:
    allowances = Allowances(Clock(), max_callers=2)
    for name in "abc":
        allowances.take(name, name, 1, 0)
    with pytest.raises(ResourceExhausted):
        allowances.take("c", "c", 1, 0)
    allowances.take("a", "a", 1, 0)  # forgotten, as the one seen longest ago
