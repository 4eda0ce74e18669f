"""Policy with integers: who is next, and what a sequence runs next."""

from typing import Literal

import pytest

from services.llm.sampling import SamplingParams
from services.llm.scheduler import Scheduler
from services.llm.sequence import DecodeToken, DrawImage, Prefill, Sequence, State, Step, Vocabulary
from triptych.errors import InvalidArgument, ResourceExhausted

EOS, SOI = 1, 2
VOCABULARY = Vocabulary(EOS, SOI, (SOI, 3, 4, 5), max_model_len=20)


def step(one: Sequence) -> Step:
    return one.step


def sequence(
    policy: Literal["allow", "forbid", "force"] = "allow", max_tokens: int = 5, max_images: int = 2
) -> Sequence:
    return Sequence((), policy, SamplingParams(max_tokens=max_tokens), max_images, VOCABULARY)


def test_round_robin() -> None:
    scheduler = Scheduler(max_num_seqs=3, max_waiting=0)
    a, b, c = sequence(), sequence(), sequence()
    for one in (a, b, c):
        scheduler.add(one)
    assert [scheduler.schedule() for _ in range(6)] == [a, b, c, a, b, c]


def test_joining_and_leaving_at_every_step() -> None:
    scheduler = Scheduler(max_num_seqs=2, max_waiting=2)
    a, b, c, d = (sequence() for _ in range(4))
    scheduler.add(a)
    assert scheduler.schedule() is a
    for one in (b, c, d):
        scheduler.add(one)
    assert [scheduler.schedule() for _ in range(2)] == [a, b]
    assert (a.state, c.state) == (State.RUNNING, State.WAITING)
    scheduler.remove(a)
    assert a.state is State.FINISHED
    assert {scheduler.schedule(), scheduler.schedule()} == {b, c}
    scheduler.remove(d)  # while it waits
    scheduler.remove(b)
    scheduler.remove(c)
    assert scheduler.schedule() is None
    assert (scheduler.load.num_running, scheduler.load.num_waiting) == (0, 0)


def test_full() -> None:
    scheduler = Scheduler(max_num_seqs=1, max_waiting=1)
    first = sequence()
    scheduler.add(first)
    scheduler.add(sequence())
    with pytest.raises(ResourceExhausted, match="1 running, 1 waiting, at most 1") as error:
        scheduler.add(sequence())
    assert error.value.retry_after_ms > 0
    scheduler.remove(first)
    scheduler.add(sequence())


def test_text_until_the_end() -> None:
    one = sequence()
    assert step(one) == Prefill()
    assert one.advance(7, 10)
    assert step(one) == DecodeToken(10)
    assert one.advance(1, 11)
    assert not one.advance(1, EOS)
    assert (one.finish_reason, one.token_ids, one.num_prompt_tokens) == ("stop", [10, 11, EOS], 7)


def test_a_picture_between_texts() -> None:
    one = sequence()
    one.advance(3, 10)
    assert not one.advance(1, SOI)
    assert step(one) == DrawImage(0)
    assert one.num_images_left == 1
    assert one.advance(4, 11)
    assert (step(one), one.token_ids) == (DecodeToken(11), [10, SOI, 3, 4, 5, 11])


def test_forced_picture_comes_first() -> None:
    one = sequence("force")
    assert one.forced_id == SOI
    one.advance(3, SOI)
    assert step(one) == DrawImage(0)
    assert one.forced_id is None


def test_max_tokens_counts_text_only() -> None:
    one = sequence("force", max_tokens=2)
    one.advance(3, SOI)
    one.advance(4, 10)
    one.advance(1, 11)
    assert not one.is_finished  # the end may come as the next token
    assert not one.advance(1, 12)
    assert (one.finish_reason, one.token_ids) == ("length", [SOI, 3, 4, 5, 10, 11])


def test_end_right_after_max_tokens_is_a_stop() -> None:
    one = sequence(max_tokens=1)
    one.advance(3, 10)
    one.advance(1, EOS)
    assert (one.finish_reason, one.token_ids) == ("stop", [10, EOS])


def test_context_is_full() -> None:
    one = sequence()
    one.advance(19, 10)
    assert not one.is_finished
    assert one.advance(1, 11)
    assert (one.finish_reason, one.token_ids) == ("length", [10, 11])


def test_no_room_for_a_picture() -> None:
    one = sequence()
    one.advance(17, SOI)
    assert (one.finish_reason, one.token_ids, one.num_images) == ("length", [], 0)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"temperature": -0.1}, "temperature is -0.1, must be 0 to 10"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0.0}, "top_p is 0, must be above 0"),
        ({"top_p": float("nan")}, "top_p is nan"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"stop": ("",)}, r"stop\[0\] has 0 characters"),
        ({"stop": ("a",) * 17}, "stop has 17 entries, at most 16"),
    ],
)
def test_sampling_bounds(changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(InvalidArgument, match=complaint):
        SamplingParams(**({"max_tokens": 1} | changes))  # type: ignore[arg-type]
