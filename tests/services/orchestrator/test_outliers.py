import pytest

from services.orchestrator.outliers import EJECT_S, MAX_EJECT_S, MAX_FAILURES, MIN_SAMPLES, Outliers

A, B, C, D = "a:1", "b:1", "c:1", "d:1"


def paced(**pace_ms: float) -> Outliers:
    """Replicas by the time they take for a unit of work."""
    outliers = Outliers()
    for name, pace in pace_ms.items():
        for _ in range(MIN_SAMPLES):
            outliers.succeeded(f"{name}:1", pace)
    return outliers


def test_alike_replicas_stay() -> None:
    assert paced(a=10, b=12, c=29).ejected([A, B, C], 0) == set()


def test_slow_one_is_left_out_for_a_while_and_starts_over() -> None:
    outliers = paced(a=10, b=12, c=40)
    assert outliers.ejected([A, B, C], 0) == {C}
    assert outliers.ejected([A, B, C], EJECT_S - 1) == {C}
    assert outliers.ejected([A, B, C], EJECT_S + 1) == set()
    for _ in range(MIN_SAMPLES):
        outliers.succeeded(C, 11)
    assert outliers.ejected([A, B, C], EJECT_S + 1) == set()


def test_too_few_samples_say_nothing() -> None:
    outliers = paced(a=10)
    outliers.succeeded(B, 1000)
    assert outliers.ejected([A, B], 0) == set()


def test_failures_in_a_row() -> None:
    outliers = Outliers()
    for _ in range(MAX_FAILURES - 1):
        outliers.failed(A)
    outliers.succeeded(A, 1)
    outliers.failed(A)
    assert outliers.ejected([A, B], 0) == set()
    for _ in range(MAX_FAILURES - 1):
        outliers.failed(A)
    assert outliers.ejected([A, B], 0) == {A}


@pytest.mark.parametrize(("addresses", "most"), [([A], 0), ([A, B], 1), ([A, B, C], 1), ([A, B, C, D], 2)])
def test_never_more_than_half(addresses: list[str], most: int) -> None:
    outliers = Outliers()
    for address in addresses:
        for _ in range(MAX_FAILURES):
            outliers.failed(address)
    assert len(outliers.ejected(addresses, 0)) == most
    assert len(outliers.ejected(addresses, 1)) == most


def test_replicas_that_leave_lower_the_cap() -> None:
    outliers = Outliers()
    for address in (A, B):
        for _ in range(MAX_FAILURES):
            outliers.failed(address)
    assert outliers.ejected([A, B, C, D], 0) == {A, B}
    assert len(outliers.ejected([A, B], 1)) == 1
    assert outliers.ejected([A], 1) == set()


def test_longer_each_time() -> None:
    outliers, now, lasted = paced(a=10, b=100), 0.0, []
    for _ in range(6):
        assert outliers.ejected([A, B], now) == {B}
        began = now
        while outliers.ejected([A, B], now):
            now += 1
        lasted.append(now - began)
        for _ in range(MIN_SAMPLES):
            outliers.succeeded(B, 100)
    assert lasted == [EJECT_S, 2 * EJECT_S, 4 * EJECT_S, 8 * EJECT_S, MAX_EJECT_S, MAX_EJECT_S]


def test_new_process_is_another_replica() -> None:
    outliers = paced(a=10, b=100)
    assert outliers.ejected([A, B], 0) == {B}
    outliers.forget(B)
    assert outliers.ejected([A, B], 1) == set()
