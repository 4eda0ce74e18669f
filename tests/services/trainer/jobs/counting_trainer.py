"""Stands in for `python -m services.trainer` where a test is about processes: it counts, as slowly as training does.

Called alike, it resumes alike: `train` counts to `vae.steps` and saves after every step. Two of it that count at the
same time leave `doubled`. A file `break` in the run's folder makes it end badly: "signal 7" once at step 7, "code 2" at
once.
"""

import argparse
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

STEP_S = 0.05


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--task", required=True)
    parser.add_argument("--json", action="store_true", required=True)
    parser.add_argument("--node-rank", type=int, default=0)
    parser.add_argument("--rendezvous", default="-")
    args = parser.parse_args()
    recipe = tomllib.loads(args.recipe.read_text())
    folder = Path(recipe["runs"]) / recipe["name"]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "calls").open("a") as calls:
        calls.write(f"{args.task} {args.node_rank} {args.rendezvous}\n")
    if args.task == "train":
        return count(folder, args.node_rank, recipe["vae"]["steps"])
    say({"stage": args.task, "step": 1, "steps": 1})
    return 0


def count(folder: Path, rank: int, steps: int) -> int:
    file = folder / "break"
    how, _, value = (file.read_text() if file.exists() else "").partition(" ")
    if how == "code":
        sys.stderr.write("error: the recipe is not to our liking\n")
        return int(value)
    # A child in a session of its own, as torch's launcher starts them; nothing of ours ends it.
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
    with (folder / f"lock-{rank}").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            (folder / "doubled").touch()
            return 1
        state = folder / f"count-{rank}"
        step = int(state.read_text()) if state.exists() else 0
        while step < steps:
            time.sleep(STEP_S)
            step += 1
            partial = state.with_suffix(".partial")
            partial.write_text(str(step))
            partial.rename(state)
            say({"stage": "vae", "step": step, "steps": steps, "loss": 1 / step})
            if how == "signal" and step == int(value):
                os.kill(os.getpid(), signal.SIGKILL)
    return 0


def say(figures: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
