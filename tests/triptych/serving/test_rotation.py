"""Round robin with letters."""

import pytest

from triptych.errors import ResourceExhausted
from triptych.serving.rotation import Rotation


def test_turns_and_places() -> None:
    rotation = Rotation[str]("pictures", max_running=2, max_waiting=1)
    assert rotation.schedule() is None
    for request in "abc":
        rotation.add(request)
    with pytest.raises(ResourceExhausted, match="pictures queue is full: 2 running, 1 waiting, at most 1"):
        rotation.add("d")
    assert [rotation.schedule() for _ in range(4)] == ["a", "b", "a", "b"]
    rotation.remove("a")
    assert [rotation.schedule() for _ in range(4)] == ["b", "c", "b", "c"]
    rotation.add("d")
    assert rotation.load.num_running == 2
    assert rotation.load.num_waiting == 1
    for request in "dbc":
        rotation.remove(request)
    assert rotation.schedule() is None
