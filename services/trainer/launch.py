"""The command that runs one stage of a recipe: one process, or this node's share of many."""

import sys
from dataclasses import dataclass
from pathlib import Path

from services.trainer.distribution import Distribution
from triptych.errors import InvalidArgument

NODES_TIMEOUT_S = 600  # for all nodes to come: a scheduler starts them one by one


@dataclass(frozen=True)
class Rendezvous:
    """Where the nodes of one run find each other."""

    endpoint: str  # host:port on node 0, reachable from all
    job_id: str  # the same on all nodes, another for another run


def command(
    recipe: Path,
    stage: str,
    distribution: Distribution | None,
    rendezvous: Rendezvous | None = None,
    node_rank: int = 0,
    threads: int = 0,
) -> list[str]:
    """argv for node `node_rank`. `threads` are for each process; 0 leaves them to it.

    A failed rank ends the run: a new one goes on from the last training state, which in-place restarts under gloo do
    not do reliably. Raises InvalidArgument when there are several nodes and no way to meet.
    """
    worker = ["-m", "services.trainer", str(recipe), "--stage", stage]
    if threads:
        worker += ["--threads", str(threads)]
    return launched(worker, distribution, rendezvous, node_rank)


def launched(
    worker: list[str], distribution: Distribution | None, rendezvous: Rendezvous | None = None, node_rank: int = 0
) -> list[str]:
    """argv for any Python module (`-m ...`), as often as the distribution says."""
    if distribution is None or distribution.num_ranks == 1:
        return [sys.executable, *worker]
    nodes = distribution.num_nodes
    if not 0 <= node_rank < nodes:
        raise InvalidArgument(f"node_rank {node_rank} is not in 0..{nodes - 1}")
    if nodes > 1 and rendezvous is None:
        raise InvalidArgument(f"num_nodes is {nodes}: a rendezvous (host:port and a job id) is needed on each of them")
    meeting = ["--standalone"] if rendezvous is None else _meeting(rendezvous, node_rank)
    shape = ["--nnodes", str(nodes), "--nproc-per-node", str(distribution.num_processes), "--max-restarts", "0"]
    return [sys.executable, "-m", "torch.distributed.run", *shape, *meeting, *worker]


def _meeting(rendezvous: Rendezvous, node_rank: int) -> list[str]:
    """Static: rank 0, which speaks and writes, is on node 0. c10d would number nodes by the names of their hosts."""
    where = ["--rdzv-backend", "static", "--rdzv-endpoint", rendezvous.endpoint, "--rdzv-id", rendezvous.job_id]
    return [*where, "--rdzv-conf", f"timeout={NODES_TIMEOUT_S}", "--node-rank", str(node_rank)]
