"""What users notice of faults: `python -m benchmarks.faults` hurts a system of two replicas of each stage, one fault at
a time, under a steady load of questions, drawings and edits, and compares each answer, text and PNG bytes, with the one
that the undisturbed system gave.

Writes faults.json and .png. Added latency: quantiles of the requests that were under way from the fault to its end,
less those of the requests just before; detection: until the orchestrator's ListComponents says so.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import quantiles
from typing import Any, Final

from benchmarks.circumstances import ROOT, circumstances
from benchmarks.fleet import STAGES, Fleet
from benchmarks.flood import flood
from benchmarks.load import Load, Outcome, ask, jobs
from benchmarks.overload import overload
from benchmarks.plot import plot_faults
from triptych.client import Client
from triptych.errors import TriptychError
from triptych.v1 import orchestrator_pb2 as pb

LIBRARIES: Final = ("torch", "grpcio", "numpy")
TIMEOUT_S: Final = 60.0
OVERLOAD_TIMEOUT_S: Final = 10.0
HANG_S: Final = 4.0
SLOW_S: Final = 6.0
SLOW_STOPPED_S, SLOW_RUNNING_S = 0.08, 0.02  # a fifth of its speed
JUMPS_S: Final = (3600, -3600)


@dataclass
class Watch:
    """When the orchestrator first saw a replica gone, and serving again."""

    fleet: Fleet
    name: str
    began: float = 0.0
    detected_ms: float | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        with Client(self.fleet.address, timeout_s=2) as client:
            while not self.stop.is_set() and self.detected_ms is None:
                health = self.fleet.health(client)
                if health and health.get(self.name) != pb.HEALTH_SERVING:
                    self.detected_ms = (time.monotonic() - self.began) * 1000
                time.sleep(0.02)


@contextmanager
def watched(fleet: Fleet, name: str) -> Iterator[Watch]:
    watch = Watch(fleet, name)
    thread = threading.Thread(target=watch.run)
    watch.began = time.monotonic()
    thread.start()
    try:
        yield watch
    finally:
        watch.stop.set()
        thread.join()


def kill(fleet: Fleet, stage: str) -> float | None:
    """A crash, or the kernel's answer to too much memory. A supervisor starts it again."""
    fleet.await_busy(f"{stage}-0")
    with watched(fleet, f"{stage}-0") as watch:
        fleet.kill(f"{stage}-0")
        time.sleep(2)
    fleet.start(f"{stage}-0")
    fleet.await_serving()
    return watch.detected_ms


def hang(fleet: Fleet, stage: str) -> float | None:
    fleet.await_busy(f"{stage}-0")
    with watched(fleet, f"{stage}-0") as watch:
        fleet.members[f"{stage}-0"].send(signal.SIGSTOP)
        time.sleep(HANG_S)
    fleet.members[f"{stage}-0"].send(signal.SIGCONT)
    fleet.await_serving()
    return watch.detected_ms


def reset(fleet: Fleet, stage: str) -> float | None:
    """Three times."""
    for _ in range(3):
        fleet.await_busy(f"{stage}-0")
        fleet.proxies[stage].reset()
        time.sleep(0.7)
    fleet.await_serving()
    return None


def slow(fleet: Fleet, stage: str) -> float | None:
    member = fleet.members[f"{stage}-0"]
    ends = time.monotonic() + SLOW_S
    while time.monotonic() < ends:
        member.send(signal.SIGSTOP)
        time.sleep(SLOW_STOPPED_S)
        member.send(signal.SIGCONT)
        time.sleep(SLOW_RUNNING_S)
    return None


def full(fleet: Fleet, stage: str) -> float | None:
    """Others fill its queue, past the orchestrator."""
    with flood(stage, fleet.members[f"{stage}-0"].address):
        time.sleep(SLOW_S)
    return None


def restart(fleet: Fleet) -> float | None:
    fleet.kill("orchestrator")
    fleet.start("orchestrator")
    fleet.await_serving()
    return None


def jump(fleet: Fleet) -> float | None:
    """An hour ahead, then an hour behind, then right again, in all processes."""
    for seconds in (*JUMPS_S, 0):
        fleet.jump(seconds)
        time.sleep(2)
    return None


def faults(can_jump: bool) -> dict[str, Callable[[Fleet], float | None]]:
    """By name."""
    of_a_stage = {"SIGKILL, as after running out of memory": kill, "SIGSTOP": hang, "connection reset": reset}
    found = {f"{name}: {stage}": partial(fault, stage=stage) for name, fault in of_a_stage.items() for stage in STAGES}
    found |= {f"slow to a fifth: {stage}": partial(slow, stage=stage) for stage in STAGES}
    found |= {f"full queue: {stage}": partial(full, stage=stage) for stage in ("encoder", "llm")}
    found["orchestrator SIGKILLed and started again"] = restart
    if can_jump:
        found["clock jumps by an hour"] = jump
    return found


@dataclass
class Suffered:
    """Requests that had ended when the fault came, those that were under way from then to its end, and the milliseconds
    until it was noticed."""

    before: list[Outcome]
    during: list[Outcome]
    detected_ms: float | None
    redone: Counter[str] = field(default_factory=Counter)  # calls that failed, by stage and status


def suffer(fleet: Fleet, fault: Callable[[Fleet], float | None], load: Load, before_s: float) -> Suffered:
    with load:
        time.sleep(before_s)
        failed_before = fleet.calls_that_failed()
        began = time.monotonic()
        detected_ms = fault(fleet)
    redone = fleet.calls_that_failed() - failed_before
    had_ended = [outcome.began + outcome.ms / 1000 < began for outcome in load.outcomes]
    before = [outcome for outcome, ended in zip(load.outcomes, had_ended, strict=True) if ended]
    during = [outcome for outcome, ended in zip(load.outcomes, had_ended, strict=True) if not ended]
    return Suffered(before, during, detected_ms, redone)


def spread(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Milliseconds."""
    times = sorted(o.ms for o in outcomes)
    cuts = quantiles(times, n=20, method="inclusive") if len(times) > 1 else times * 19
    return {"p50": cuts[9], "p95": cuts[18], "max": times[-1]}


def figures(suffered: Suffered, expected: dict[int, str]) -> dict[str, Any]:
    outcomes, times, before = suffered.during, spread(suffered.during), spread(suffered.before)
    return {
        "num_requests": len(outcomes),
        "num_failures": sum(bool(o.error) for o in outcomes),
        "num_different": sum(not o.error and o.answer != expected[o.index] for o in outcomes),
        "calls_that_failed": suffered.redone,
        "num_asked_again": sum(o.num_tries > 1 for o in outcomes),
        "errors": Counter(o.error for o in outcomes if o.error),
        "ms": times,
        "num_before": len(suffered.before),
        "num_wrong_before": sum(bool(o.error) or o.answer != expected[o.index] for o in suffered.before),
        "before_ms": before,
        "added_ms": {name: times[name] - before[name] for name in times},
        "detected_ms": suffered.detected_ms,
    }


def measure(fleet: Fleet, args: argparse.Namespace, can_jump: bool) -> dict[str, Any]:
    todo = jobs(args.num_jobs, args.steps)
    with Client(fleet.address, timeout_s=TIMEOUT_S) as client:
        alone = [ask(client, job) for job in todo]
    if failed := [outcome.error for outcome in alone if outcome.error]:
        raise TriptychError(f"the undisturbed system fails: {failed[0]}")
    expected = {outcome.index: outcome.answer for outcome in alone}
    results = {}
    for name, fault in faults(can_jump).items():
        if args.only and args.only not in name:
            continue
        # A caller whose orchestrator goes has to ask again; all else is for the services to mend.
        num_tries = 4 if "orchestrator" in name else 1
        load = Load(fleet.address, todo, args.num_callers, TIMEOUT_S, num_tries)
        results[name] = figures(suffer(fleet, fault, load, args.quiet_s), expected)
        print(line(name, results[name]), flush=True)
    return results


def line(name: str, result: dict[str, Any]) -> str:
    noticed = f", noticed after {result['detected_ms']:.0f} ms" if result["detected_ms"] is not None else ""
    return (
        f"{name}: {result['num_requests']} requests, {result['num_failures']} failed, "
        f"{result['num_different']} different, {result['num_asked_again']} asked again, "
        f"calls that failed: {dict(result['calls_that_failed']) or 0}, "
        f"added {result['added_ms']['p50']:+.0f} ms (median), {result['added_ms']['p95']:+.0f} ms (p95){noticed}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "checkpoints" / "genllava-tiny", help="what to run")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results", help="folder for the figures")
    parser.add_argument("--num-jobs", type=int, default=12, help="different requests")
    parser.add_argument("--num-callers", type=int, default=4, help="who ask one thing after another")
    parser.add_argument("--steps", type=int, default=20, help="denoising steps of a drawing")
    parser.add_argument("--quiet-s", type=float, default=10, help="undisturbed seconds before each fault")
    parser.add_argument("--overload-s", type=float, default=30, help="seconds of overload, and before it of full load")
    parser.add_argument("--only", default="", help="faults with this in their name; overload: that alone")
    args = parser.parse_args()
    about = circumstances(*LIBRARIES)
    with tempfile.TemporaryDirectory(prefix="triptych-faults-") as folder:
        try:
            fleet = Fleet(args.checkpoint, Path(folder))
            can_jump = fleet.can_jump()
            with fleet:
                results = measure(fleet, args, can_jump)
                flooded = overload(fleet, jobs(args.num_jobs, args.steps), args.overload_s, OVERLOAD_TIMEOUT_S)
        except TriptychError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    print(f"overload: {dict(flooded['ended'])} of {flooded['num_requests']}, at most {flooded['ms_max']:.0f} ms")
    args.output.mkdir(parents=True, exist_ok=True)
    more = {
        "num_callers": args.num_callers,
        "load_average_after": os.getloadavg(),
        "overload": flooded,
        "results": results,
    }
    (args.output / "faults.json").write_text(json.dumps(about | more, indent=2) + "\n")
    if results:
        plot_faults(results, args.output / "faults.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
