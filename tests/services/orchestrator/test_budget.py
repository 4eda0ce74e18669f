from services.orchestrator.budget import RetryBudget


def test_outage_costs_the_burst_and_a_share_of_the_calls() -> None:
    budget = RetryBudget(ratio=0.2, burst=10)
    retried = 0
    for _ in range(1000):  # all fail
        budget.called()
        retried += budget.spend()
    assert 200 <= retried <= 211


def test_replica_that_dies_with_all_it_has_is_within_the_burst() -> None:
    budget = RetryBudget(ratio=0.2, burst=10)
    assert [budget.spend() for _ in range(11)] == [True] * 10 + [False]


def test_what_is_not_spent_is_kept_up_to_the_burst() -> None:
    budget = RetryBudget(ratio=0.5, burst=2)
    for _ in range(100):
        budget.called()
    assert budget.balance == 2
    assert RetryBudget(ratio=1, burst=0).spend() is False
