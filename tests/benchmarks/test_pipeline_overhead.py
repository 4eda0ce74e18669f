from pathlib import Path

from PIL import Image

from benchmarks.__main__ import LIBRARIES, NUM_WARM_UPS, Pair, digests, measure
from benchmarks.circumstances import circumstances
from benchmarks.plot import plot


def test_pairs_are_timed_turn_about(tmp_path: Path) -> None:
    called: list[str] = []

    def pair(index: int) -> Pair:
        served, direct = f"served {index}", f"direct {index}"
        return lambda: called.append(served), lambda: called.append(direct)

    result = measure([pair(index) for index in range(NUM_WARM_UPS + 4)])
    assert len(called) == 2 * (NUM_WARM_UPS + 4)
    assert [first.split()[0] for first in called[::2]] == ["direct", "served"] * 3
    assert result["num_pairs"] == len(result["one_process_ms"]["all"]) == 4
    assert result["num_equal_results"] == 4
    assert result["ratio"] > 0
    plot({"ask": result, "draw": result}, tmp_path / "plot.png")
    assert Image.open(tmp_path / "plot.png").size == (900, 300)


def test_circumstances_are_told(system_checkpoint: Path) -> None:
    told = circumstances(*LIBRARIES, checkpoint=digests(system_checkpoint))
    assert set(told["checkpoint"]) == {"encoder", "llm", "decoder"}
    assert told["versions"]["torch"]
    assert told["machine"]["num_cpus"] >= 1
    assert len(told["load_average_before"]) == 3
