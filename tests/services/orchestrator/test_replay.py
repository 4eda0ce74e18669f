import pytest

from services.orchestrator.replay import Mark, Replay
from triptych.errors import TriptychError

START, HANDED = Mark("image_start", 0), Mark("hidden_states", 0)


def tell(replay: Replay, *events: str | Mark) -> list[str | Mark]:
    """What of `events` is new."""
    found: list[str | Mark] = []
    for event in events:
        if isinstance(event, Mark):
            found += [event] if replay.mark(event) else []
        else:
            found += [fresh] if (fresh := replay.text(event)) else []
    return found


def test_first_attempt_is_all_new() -> None:
    replay = Replay()
    assert tell(replay, "a ", "red", START, HANDED, " circle", "") == ["a ", "red", START, HANDED, " circle"]
    replay.end()


@pytest.mark.parametrize(
    "pieces", [("a red ", "circle, there"), ("a", " red circle", ", there"), ("a red circle, there",)]
)
def test_text_goes_on_where_it_stopped_however_it_is_cut(pieces: tuple[str, ...]) -> None:
    replay = Replay()
    tell(replay, "a ", "red ", "cir")
    replay.rewind()
    assert "".join(str(piece) for piece in tell(replay, *pieces)) == "cle, there"
    replay.end()


def test_pictures_are_not_repeated() -> None:
    replay = Replay()
    tell(replay, "see: ", START, HANDED, "and")
    for _ in range(2):
        replay.rewind()
        assert tell(replay, "see: ", START, HANDED, "and") == []
    assert tell(replay, " more", Mark("image_start", 1)) == [" more", Mark("image_start", 1)]
    replay.end()


@pytest.mark.parametrize(
    "other",
    [("a blue",), ("a red circle", START), ("a re", START), (START,), ("a red", HANDED), ("a red", START, HANDED, "x")],
)
def test_another_reply_is_noticed(other: tuple[str | Mark, ...]) -> None:
    replay = Replay()
    tell(replay, "a red", START, HANDED, "yes", START)
    replay.rewind()
    with pytest.raises(TriptychError, match="came out differently"):
        tell(replay, *other)


def test_reply_that_ends_early_is_noticed() -> None:
    replay = Replay()
    tell(replay, "a red circle")
    replay.rewind()
    tell(replay, "a red")
    with pytest.raises(TriptychError, match="came out differently"):
        replay.end()
