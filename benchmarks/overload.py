"""Requests that come five times as fast as they can be served, whatever becomes of those before them."""

import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from benchmarks.fleet import Fleet
from benchmarks.load import Job, Load, Outcome, ask
from triptych.client import Client

FACTOR: Final = 5
NUM_THREADS: Final = 400
GRACE_MS: Final = 1000  # for an answer to arrive, after its deadline


def overload(fleet: Fleet, todo: Sequence[Job], seconds: float, timeout_s: float) -> dict[str, Any]:
    """What became of each request, how late the latest word was, and the memory of all processes."""
    per_s = _capacity(fleet, todo, seconds)
    before = {name: member.rss_bytes for name, member in fleet.members.items()}
    peak = dict(before)
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.2):
            for name, member in fleet.members.items():
                peak[name] = max(peak[name], member.rss_bytes)

    looking = threading.Thread(target=look)
    looking.start()
    outcomes = _pour(fleet, todo, FACTOR * per_s, seconds, timeout_s)
    stop.set()
    looking.join()
    return {
        "capacity_per_s": per_s,
        "offered_per_s": FACTOR * per_s,
        "timeout_s": timeout_s,
        "num_requests": len(outcomes),
        "ended": Counter(_end(outcome) for outcome in outcomes),
        "num_without_word_in_time": sum(o.ms > 1000 * timeout_s + GRACE_MS for o in outcomes),
        "ms_max": max(o.ms for o in outcomes),
        "refused_ms_max": max((o.ms for o in outcomes if o.is_refusal), default=0.0),
        "rss_megabytes": {name: [round(before[name] / 1e6), round(peak[name] / 1e6)] for name in before},
    }


def _capacity(fleet: Fleet, todo: Sequence[Job], seconds: float) -> float:
    """Requests a second, with enough callers to keep everything busy."""
    with Load(fleet.address, todo, 8, timeout_s=60.0, num_tries=1) as load:
        time.sleep(seconds)
        num_ended = sum(not outcome.error for outcome in load.outcomes)
    return num_ended / seconds


def _pour(fleet: Fleet, todo: Sequence[Job], per_s: float, seconds: float, timeout_s: float) -> list[Outcome]:
    number = int(per_s * seconds)
    began = time.monotonic()
    with Client(fleet.address, timeout_s=timeout_s) as client, ThreadPoolExecutor(NUM_THREADS) as threads:

        def one(index: int) -> Outcome:
            return ask(client, todo[index % len(todo)])

        futures = []
        for index in range(number):
            time.sleep(max(0.0, began + index / per_s - time.monotonic()))
            futures.append(threads.submit(one, index))
        return [future.result() for future in futures]


def _end(outcome: Outcome) -> str:
    return "answered" if not outcome.error else outcome.error.partition(":")[0]
