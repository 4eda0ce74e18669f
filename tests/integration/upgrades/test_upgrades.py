"""One component after the other is upgraded under steady load, well and badly: nobody notices."""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.integration.pictures import pixels_of
from tests.integration.processes import ROOT, TRIPTYCH, environment
from tests.integration.upgrades.load import Load, respond
from tests.integration.upgrades.variants import Variants
from triptych.card import read_card
from triptych.client import Client
from triptych.up import LocalSystem
from triptych.v1 import component_pb2

pytestmark = [pytest.mark.upgrades, pytest.mark.timeout(3 * 1200)]
STAGES = ("encoder", "llm", "decoder")
PATIENCE_S = 1200  # several processes import torch, beside a steady load, on two cores that others may use too


@dataclass
class Site:
    """A running system, the checkpoint it was started from, and what it could be upgraded to."""

    system: LocalSystem
    checkpoint: Path
    variants: Variants

    def upgrade(self, *args: str | Path) -> subprocess.CompletedProcess[str]:
        command = [*TRIPTYCH, "upgrade", *(str(arg) for arg in args), "--address", self.system.address]
        return subprocess.run(
            command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )

    def generations(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {stage: set() for stage in STAGES}
        with Client(self.system.address) as client:
            for replica in client.components().replicas:
                found[replica.kind].add(replica.description.generation)
        return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("upgrades")
    checkpoint = Path(shutil.copytree(ROOT / "checkpoints" / "genllava-tiny", root / "genllava-tiny"))
    variables = environment(ORCHESTRATOR_POLL_INTERVAL_MS="50", ORCHESTRATOR_TRIAL_SHARE="0.5")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        with LocalSystem(checkpoint, device="cpu", log_dir=root / "logs") as system:
            yield Site(system, checkpoint, Variants(checkpoint, root))


def check_pairs(load: Load, *folders: Path) -> None:
    """Every reply came from components that share their spaces."""
    cards = {card.digest: card for folder in folders for card in [read_card(folder)]}
    assert load.failures == []
    assert {turn.kind for turn in load.turns} == {"ask", "draw", "edit"}
    for turn in load.turns:
        by = {served.kind: cards[served.digest] for served in turn.served_by}
        assert len(by) == len(turn.served_by), turn
        if "encoder" in by:
            assert by["encoder"].output("embeddings").space == by["llm"].input("embeddings").space
        if "decoder" in by:
            assert by["llm"].output("hidden_states").space == by["decoder"].input("hidden_states").space


def picture_of(site: Site) -> np.ndarray:
    with Client(site.system.address) as client:
        (image,) = respond(client, "draw").images
    return pixels_of(image.png).astype(int)


def bad(site: Site, *args: str | Path, meanwhile: Callable[[], None] = lambda: None) -> tuple[str, Load]:
    """An upgrade that must not succeed: what the command said, and what users saw."""
    before, drawn = site.generations(), picture_of(site)
    folders = [site.checkpoint / stage for stage in STAGES]
    thread = threading.Thread(target=meanwhile)
    with Load(site.system.address) as load:
        thread.start()
        done = site.upgrade(*args)
        thread.join()
        ended_s = time.monotonic()
        time.sleep(1)
    assert done.returncode == 1, done.stderr
    check_pairs(load, *folders)
    assert site.generations() == before
    assert all({turn.generation("llm")} == before["llm"] for turn in load.since(ended_s))
    assert np.array_equal(picture_of(site), drawn)
    site.system.check()
    return done.stderr, load


@pytest.mark.parametrize(
    ("variant", "reason"),
    [("with_wrong_probes", "reaches cosine"), ("of_another_space", "the new decoder fits no partner")],
)
def test_a_decoder_that_must_not_serve(site: Site, variant: str, reason: str) -> None:
    folder = getattr(site.variants, variant)()
    stderr, load = bad(site, "decoder", "--checkpoint", folder)
    assert reason in stderr
    assert set(load.served("decoder")) == site.generations()["decoder"], "it never took traffic"


def test_a_setting_that_makes_every_call_fail(site: Site) -> None:
    stderr, _ = bad(site, "decoder", "--set", "max_message_bytes=4096", "--trial-s", "60")
    assert "the new decoder is no good" in stderr
    assert "calls failed" in stderr


@pytest.mark.slow
def test_a_setting_that_ends_the_process_at_once(site: Site) -> None:
    stderr, _ = bad(site, "llm", "--set", "max_num_seqs=0")
    assert "ended with exit code 2" in stderr


@pytest.mark.slow
def test_a_crash_on_trial(site: Site) -> None:
    def crash() -> None:
        replica = newcomer(site, "encoder")
        os.kill(replica, signal.SIGKILL)

    stderr, _ = bad(site, "encoder", "--set", "max_batch_size=7", "--trial", "1000", "--trial-s", "60", meanwhile=crash)
    assert "ended by SIGKILL" in stderr


@pytest.mark.slow
def test_one_that_is_too_slow(site: Site) -> None:
    """The same decoder, but most of the time it is not given the processor."""

    def hinder() -> None:
        pid = newcomer(site, "decoder")
        try:
            while True:
                os.kill(pid, signal.SIGSTOP)
                time.sleep(0.4)
                os.kill(pid, signal.SIGCONT)
                time.sleep(0.02)
        except ProcessLookupError:
            return

    flags = ("--set", "max_num_requests=3", "--trial", "1000", "--trial-s", "90")
    stderr, _ = bad(site, "decoder", *flags, meanwhile=hinder)
    assert "ms for a unit of work, the older generation" in stderr


def newcomer(site: Site, stage: str) -> int:
    """The process of the new version, once it has served a few calls."""
    old = {process.pid for process in site.system._crew.of(stage)}
    deadline_s = time.monotonic() + 120
    while time.monotonic() < deadline_s:
        with Client(site.system.address) as client:
            on_trial = [r for r in client.components().replicas if r.standing == component_pb2.STANDING_TRIAL]
        if on_trial and on_trial[0].num_calls >= 2:
            running = {p.pid for p in site.system._crew._running.values() if p.service == stage}
            (pid,) = running - old
            return pid
        time.sleep(0.02)
    raise AssertionError("it never was on trial")


def test_encoder_from_torch_to_onnx(site: Site) -> None:
    site.variants.export_encoder()
    drawn, before = picture_of(site), site.generations()
    with Load(site.system.address) as load:
        done = site.upgrade("encoder", "--backend", "onnxruntime", "--trial", "5", "--trial-s", "60")
        time.sleep(0.5)
    assert done.returncode == 0, done.stderr
    check_pairs(load, *(site.checkpoint / stage for stage in STAGES))
    after = site.generations()
    assert (after["llm"], after["decoder"]) == (before["llm"], before["decoder"])
    assert len(load.served("encoder")) == 2, "both served in between"
    with Client(site.system.address) as client:
        (encoder,) = [r.description for r in client.components().replicas if r.kind == "encoder"]
    assert encoder.backend == "onnxruntime"
    assert np.array_equal(picture_of(site), drawn), "nothing but the encoder has changed"


def test_decoder_retrained_against_the_frozen_llm(site: Site) -> None:
    folder = site.variants.retrained_decoder()
    drawn, before = picture_of(site), site.generations()
    with Load(site.system.address) as load:
        done = site.upgrade("decoder", "--checkpoint", folder, "--share", "0.3", "--trial", "5", "--trial-s", "60")
        ended_s = time.monotonic()
        time.sleep(1)
    assert done.returncode == 0, done.stderr
    check_pairs(load, folder, *(site.checkpoint / stage for stage in STAGES))
    (after,) = site.generations()["decoder"]
    assert {after}.isdisjoint(before["decoder"])
    assert {turn.generation("decoder") for turn in load.since(ended_s + 0.2)} <= {"", after}
    change = np.abs(picture_of(site) - drawn)
    assert 0 < change.mean() < 64, "another picture, of the same thing"


def test_llm_and_encoder_together(site: Site) -> None:
    """A new space between them: at no time does one of them work with the other's predecessor."""
    folder, before = site.variants.retrained_pair(), site.generations()
    site.variants.export_encoder(folder)  # the encoder before it may run on ONNX by now, and its settings stay
    decoder = site.system._crew.launches["decoder"].checkpoint
    with Client(site.system.address) as client, Load(site.system.address) as load:
        chat = client.chat()
        first = chat.send("a red circle", (), "generate").done.served_by
        done = site.upgrade("llm", "encoder", "--checkpoint", folder, "--trial", "4", "--trial-s", "60")
        time.sleep(0.5)
        second = chat.send("make it blue", (), "edit").done.served_by
    assert done.returncode == 0, done.stderr
    folders = [folder / "llm", folder / "encoder", decoder, site.checkpoint / "llm", site.checkpoint / "encoder"]
    check_pairs(load, *folders)
    after = site.generations()
    assert after["decoder"] == before["decoder"]
    for stage in ("llm", "encoder"):
        assert after[stage].isdisjoint(before[stage])
        assert load.served(stage).keys() == after[stage] | before[stage]
    assert {served.digest for served in first}.isdisjoint({s.digest for s in second if s.kind == "llm"})
