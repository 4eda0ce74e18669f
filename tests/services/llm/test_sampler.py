import torch

from services.llm.sampler import Sampler
from services.llm.sampling import SamplingParams

LOGITS = torch.tensor([1.0, 3.0, 2.0, 0.0])


def drawn(count: int = 200, **params: float) -> list[int]:
    sampler = Sampler(SamplingParams(max_tokens=1, **params))  # type: ignore[arg-type]
    return [sampler.pick(LOGITS.clone(), []) for _ in range(count)]


def test_greedy() -> None:
    assert set(drawn()) == {1}
    assert Sampler(SamplingParams(max_tokens=1)).pick(LOGITS.clone(), [1]) == 2


def test_same_seed_same_draws() -> None:
    assert drawn(temperature=1.0, seed=5) == drawn(temperature=1.0, seed=5)
    assert drawn(temperature=1.0, seed=5) != drawn(temperature=1.0, seed=6)


def test_top_k_and_top_p() -> None:
    assert set(drawn(temperature=5.0)) == {0, 1, 2, 3}
    assert set(drawn(temperature=5.0, top_k=2)) == {1, 2}
    assert set(drawn(temperature=1.0, top_p=0.7)) == {1, 2}  # 0.64, 0.24, 0.09, 0.03
    assert set(drawn(temperature=1.0, top_p=1e-6)) == {1}
    assert set(drawn(temperature=5.0, top_k=1000)) == {0, 1, 2, 3}


def test_banned_never_comes() -> None:
    sampler = Sampler(SamplingParams(max_tokens=1, temperature=10.0))
    assert {sampler.pick(LOGITS.clone(), [0, 1]) for _ in range(200)} == {2, 3}


def test_frequencies_follow_the_logits() -> None:
    draws = drawn(4000, temperature=1.0)
    shares = torch.bincount(torch.tensor(draws)) / len(draws)
    assert torch.allclose(shares, LOGITS.softmax(0), atol=0.03)


def test_the_smallest_temperatures_are_greedy() -> None:
    for temperature in (1e-30, 1e-38, 1e-45):
        assert set(drawn(20, temperature=temperature)) == {1}
