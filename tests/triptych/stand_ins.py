"""Small stand-ins for the three components, as processes that `python -m services.<component>` starts; the orchestrator
stays the real one.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.services.orchestrator.cards import decoder_card, encoder_card, llm_card
from triptych.card import Card, write_card

ROOT = Path(__file__).parents[2]

COMPONENT = """
import argparse, asyncio, signal
import grpc
from pathlib import Path
from tests.services.orchestrator.fakes import {fake}
from triptych.card import read_card

async def main(flags):
    if (flags.checkpoint / "broken").exists():
        raise SystemExit("encoder: probe 3 has cosine 0.5, below 0.999")
    component = {fake}(read_card(flags.checkpoint))
    component.port = flags.port
    if (flags.checkpoint / "failing").exists():
        component.errors = [(grpc.StatusCode.INTERNAL, "a bug")] * 1000
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await component.start()
    flags.address_file.write_text(component.address)
    await stopped.wait()
    await component.stop()
    print("stopped in peace", flush=True)

parser = argparse.ArgumentParser()
for flag, kind in {{"checkpoint": Path, "port": int, "address-file": Path, "host": str}}.items():
    parser.add_argument(f"--{{flag}}", type=kind)
asyncio.run(main(parser.parse_known_args()[0]))
"""


def write_checkpoint(folder: Path, *cards: Card, mark: str = "") -> Path:
    """`mark` names a file that the stand-ins look for; it makes the digest another one, too."""
    for card in cards or (encoder_card(), llm_card(), decoder_card()):
        (folder / card.kind).mkdir(parents=True)
        (folder / card.kind / "weights").write_text(card.kind + card.version)
        if mark:
            (folder / card.kind / mark).touch()
        write_card(folder / card.kind, card)
    (folder / "system.json").write_text(json.dumps({"name": "tiny", "version": "1"}))
    return folder


def newer(card: Card) -> Card:
    return replace(card, version="2.0.0")


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes started in `folder` find the stand-ins first."""
    package = folder / "services"
    for service in ("encoder", "llm", "decoder"):
        (package / service).mkdir(parents=True)
        (package / service / "__init__.py").touch()
        (package / service / "__main__.py").write_text(COMPONENT.format(fake=f"Fake{service.capitalize()}"))
    (package / "__init__.py").write_text(f"__path__ = [{str(package)!r}, {str(ROOT / 'services')!r}]")
    monkeypatch.chdir(folder)
