"""How the command line shows things: the model's words on stdout, everything else on stderr, live on a terminal."""

import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from triptych.replies import Done, Drawing, Event, ImageStarted, Preview, TextDelta
from triptych.replies import Progress as Step
from triptych.v1 import component_pb2
from triptych.v1 import orchestrator_pb2 as pb

Save = Callable[[Drawing], Path]
REPLICA_HEADER: Final = [
    *("kind", "address", "health", "component", "generation", "backend", "standing", "share"),
    *("running", "waiting", "calls", "spaces", "detail"),
]
CHAIN_HEADER: Final = ["encoder", "llm", "decoder", "compatible", "reason"]
_HEALTH: Final = {
    pb.HEALTH_SERVING: "serving",
    pb.HEALTH_NOT_SERVING: "not serving",
    pb.HEALTH_UNREACHABLE: "unreachable",
    pb.HEALTH_DRAINING: "draining",
}
_STANDING: Final = {
    component_pb2.STANDING_CHAINED: "chained",
    component_pb2.STANDING_UNCHAINED: "fits nobody",
    component_pb2.STANDING_TRIAL: "on trial",
    component_pb2.STANDING_QUARANTINED: "quarantined",
}


def note(text: str) -> None:
    """One line on stderr."""
    typer.echo(text, err=True)


class Printer:
    """Shows one stream of events; `save` puts a finished picture somewhere and says where."""

    def __init__(self, save: Save, save_preview: Callable[[Preview], None] | None = None) -> None:
        self._save = save
        self._save_preview = save_preview
        self._line_is_open = False
        self._bars: dict[int, TaskID] = {}
        self._bar: Progress | None = None

    def show(self, events: Iterable[Event]) -> None:
        """Text as it comes; a picture's path on a line of its own."""
        with ExitStack() as stack:
            stack.callback(self._end_line)
            for event in events:
                self._show(event, stack)

    def _show(self, event: Event, stack: ExitStack) -> None:
        match event:
            case TextDelta(text):
                self._write(text)
            case ImageStarted(index):
                self._end_line()
                self._bar = _bar()
                if self._bar is not None:
                    stack.enter_context(self._bar)
                    self._bars[index] = self._bar.add_task("drawing", total=None)
            case Step(index, step, num_steps) if self._bar is not None:
                self._bar.update(self._bars[index], completed=step, total=num_steps)
            case Preview() if self._save_preview is not None:
                self._save_preview(event)
            case Drawing():
                self._finish_bar()
                path = self._save(event)
                typer.echo(path)
                note(f"{event.width}x{event.height}, seed {event.seed}")
            case Done():
                self._end_line()
                note(summary(event))

    def _write(self, text: str) -> None:
        text = "".join(c for c in text if c.isprintable() or c in "\n\t")  # no escape sequences from a model
        text = text if self._line_is_open else text.lstrip()
        if text:
            sys.stdout.write(text)
            sys.stdout.flush()
            self._line_is_open = True

    def _end_line(self) -> None:
        if self._line_is_open:
            typer.echo()
            self._line_is_open = False

    def _finish_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def summary(done: Done) -> str:
    """One line: where the time went."""
    stages = ", ".join(f"{t.stage} {t.running_ms:.0f} ms (+{t.queued_ms:.0f} queued)" for t in done.stage_times)
    return f"{done.finish_reason} after {done.total_ms:.0f} ms: {stages}; request {done.request_id}"


def print_components(components: pb.ListComponentsResponse) -> None:
    """Tables on a terminal, tab-separated lines elsewhere."""
    replicas = [_replica_row(replica) for replica in components.replicas]
    chains = [_chain_row(chain) for chain in components.chains]
    _print_rows("replicas", REPLICA_HEADER, replicas)
    _print_rows("chains", CHAIN_HEADER, chains)


def _replica_row(replica: pb.Replica) -> list[str]:
    told = replica.description
    card, load = told.card, told.load
    name = f"{card.name} {card.version} ({_short(card.digest)})" if card.name else "?"
    spaces = [f"{port.name}: {port.space}" for port in (*card.inputs, *card.outputs) if port.space]
    busy = [str(load.num_running), str(load.num_waiting)] if card.name else ["?", "?"]
    health = "leaving" if replica.is_leaving else _HEALTH.get(replica.health, "unknown")
    failed = f" ({replica.num_failed} failed)" if replica.num_failed else ""
    return [
        *(replica.kind, replica.address, health, name, told.generation or "?", told.backend or "?"),
        *(_STANDING.get(replica.standing, "-"), f"{replica.share:.0%}", *busy, f"{replica.num_calls}{failed}"),
        *(", ".join(spaces), "; ".join(filter(None, (replica.detail, replica.standing_reason)))),
    ]


def _chain_row(chain: pb.Chain) -> list[str]:
    digests = [_short(d) or "-" for d in (chain.encoder_digest, chain.llm_digest, chain.decoder_digest)]
    return [*digests, "yes" if chain.compatible else "no", chain.reason]


def _print_rows(title: str, header: list[str], rows: list[list[str]]) -> None:
    console = Console()
    if not console.is_terminal:
        typer.echo("\n".join("\t".join(row) for row in [[title], header, *rows]))
        return
    table = Table(*header, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    console.print(table, markup=False)


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def _bar() -> Progress | None:
    """None where nobody would see it move."""
    console = Console(stderr=True)
    if not console.is_terminal:
        return None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True)
