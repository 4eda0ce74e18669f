"""Stands in for `python -m services.trainer` on several nodes: the ranks of `train` meet over gloo, and count."""

import argparse
import os
import subprocess
import sys
import time
import tomllib
from pathlib import Path

STEPS = 30


def main() -> int:
    if "RANK" in os.environ:
        return meet(Path(sys.argv[1]))
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--task", required=True)
    parser.add_argument("--json", action="store_true", required=True)
    parser.add_argument("--node-rank", type=int, default=0)
    parser.add_argument("--rendezvous", default="")
    args = parser.parse_args()
    if args.task != "train":
        return 0
    recipe = tomllib.loads(args.recipe.read_text())
    folder = Path(recipe["runs"]) / recipe["name"]
    folder.mkdir(parents=True, exist_ok=True)
    host, port = args.rendezvous.split(":")
    shape = ["--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "0", "--node-rank", str(args.node_rank)]
    where = ["--master-addr", host, "--master-port", port]
    command = [sys.executable, "-m", "torch.distributed.run", *shape, *where, __file__, str(folder)]
    return 3 if subprocess.run(command, check=False).returncode else 0  # as the trainer does when ranks are lost


def meet(folder: Path) -> int:
    """Each rank counts on from what it has saved, in step with the other one."""
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    rank = dist.get_rank()
    state = folder / f"count-{rank}"
    steps = torch.tensor(int(state.read_text()) if state.exists() else 0)
    dist.all_reduce(steps, op=dist.ReduceOp.MIN)
    for step in range(int(steps), STEPS):
        time.sleep(0.05)
        total = torch.ones(1)
        dist.all_reduce(total)
        assert total.item() == 2
        partial = state.with_suffix(f".{rank}.partial")
        partial.write_text(str(step + 1))
        partial.rename(state)
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
