"""Upgrades under load with the real orchestrator process; the three components are small stand-ins."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.services.orchestrator.cards import decoder_card, encoder_card, llm_card, picture
from tests.triptych.stand_ins import install, newer, write_checkpoint
from triptych.cli import app
from triptych.client import Client
from triptych.errors import FailedPrecondition, InvalidArgument, TriptychError
from triptych.local.control import ask
from triptych.local.crew import Launch
from triptych.local.upgrade import Plan
from triptych.up import LocalSystem, plan_of
from triptych.v1 import supervisor_pb2


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSystem]:
    folder = tmp_path_factory.mktemp("up")
    with pytest.MonkeyPatch.context() as patch:
        install(folder, patch)
        patch.setenv("ORCHESTRATOR_POLL_INTERVAL_MS", "30")
        checkpoint = write_checkpoint(folder / "checkpoint")
        with LocalSystem(checkpoint, log_dir=folder / "logs", replicas={"decoder": 2}) as running:
            yield running


class Users:
    """Draws and asks without a pause; every failure is kept."""

    def __init__(self, system: LocalSystem) -> None:
        self._client = Client(system.address, timeout_s=60)
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._use, args=(number,)) for number in range(2)]
        self.failures: list[str] = []
        self.served: list[dict[str, str]] = []

    def __enter__(self) -> "Users":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self._client.close()

    def _use(self, number: int) -> None:
        while not self._stopping.wait(0.01):
            try:
                done = self._client.chat().send("edit", [picture()], "edit" if number else "understand").done
            except TriptychError as error:
                self.failures.append(str(error))
            else:
                self.served.append({served.kind: served.digest for served in done.served_by})


def digests(system: LocalSystem) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    with Client(system.address) as client:
        for replica in client.components().replicas:
            found.setdefault(replica.kind, []).append(replica.description.card.digest)
    return found


def request(folder: Path, *components: str) -> supervisor_pb2.UpgradeRequest:
    return supervisor_pb2.UpgradeRequest(
        components=components, checkpoint=str(folder), share=1, trial_calls=3, trial_s=30
    )


def test_all_replicas_of_a_component(system: LocalSystem, tmp_path: Path) -> None:
    folder, before = write_checkpoint(tmp_path / "new", newer(decoder_card())), digests(system)
    with Users(system) as users:
        said = list(ask(system.address, request(folder, "decoder")))
    assert said[0] == "started decoder-3, decoder-4 beside decoder, decoder-2"
    assert said[-1] == "decoder, decoder-2 drained and ended"
    assert users.failures == []
    after = digests(system)
    assert len(set(after["decoder"])) == 1
    assert len(after["decoder"]) == 2
    assert set(after["decoder"]).isdisjoint(before["decoder"])
    assert {d["decoder"] for d in users.served if "decoder" in d} == {*before["decoder"], *after["decoder"]}
    assert (after["encoder"], after["llm"]) == (before["encoder"], before["llm"])


@pytest.mark.slow
def test_two_that_belong_together(system: LocalSystem, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "new", newer(encoder_card("in@2")), newer(llm_card("in@2")))
    before = digests(system)
    with pytest.raises(FailedPrecondition, match="the new llm fits no partner"):
        list(ask(system.address, request(folder, "llm")))
    assert digests(system) == before
    with Users(system) as users:
        list(ask(system.address, request(folder, "llm", "encoder")))
    assert users.failures == []
    after = digests(system)
    pairs = {(before["encoder"][0], before["llm"][0]), (after["encoder"][0], after["llm"][0])}
    assert {(d["encoder"], d["llm"]) for d in users.served} == pairs
    assert len(pairs) == 2
    system.restart("llm-3")  # the second one was of no use alone
    assert digests(system) == after, "a crash after the upgrade brings the new version back"


@pytest.mark.parametrize(("mark", "reason"), [("broken", "probe 3 has cosine 0.5"), ("failing", "calls failed")])
def test_one_that_is_no_good(system: LocalSystem, tmp_path: Path, mark: str, reason: str) -> None:
    folder = write_checkpoint(tmp_path / "new", newer(decoder_card()), mark=mark)
    before = digests(system)
    with Users(system) as users, pytest.raises(TriptychError, match=reason):
        list(ask(system.address, request(folder, "decoder")))
    assert users.failures == []
    assert digests(system) == before
    system.check()


def test_given_up_half_way(system: LocalSystem, tmp_path: Path) -> None:
    plan = Plan(
        {"decoder": Launch(write_checkpoint(tmp_path / "new", newer(decoder_card())) / "decoder")}, 1.0, 1000, 600
    )
    before = digests(system)
    upgrading = system.upgrade(plan)
    next(upgrading)
    with pytest.raises(FailedPrecondition, match="another upgrade"):
        next(system.upgrade(plan))
    upgrading.close()
    assert digests(system) == before


def test_command(system: LocalSystem, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "new", newer(decoder_card("img@7")))
    args = ["upgrade", "decoder", "--checkpoint", str(folder), "--address", system.address]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 1
    assert "error [decoder]: the new decoder fits no partner" in result.stderr
    assert CliRunner().invoke(app, ["upgrade", "decoder", "--address", system.address]).exit_code == 2
    assert CliRunner().invoke(app, [*args[:-1], "127.0.0.1:1"]).exit_code == 3


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"components": ["lm"]}, "components are"),
        ({"components": []}, "components are"),
        ({"share": 0.0}, "share must be"),
        ({"checkpoint": ""}, "nothing to upgrade to"),
    ],
)
def test_what_cannot_be_asked(tmp_path: Path, changes: dict[str, object], named: str) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint")
    values = {"components": ["llm"], "checkpoint": str(folder), "share": 1.0} | changes
    with pytest.raises(InvalidArgument, match=named):
        plan_of(supervisor_pb2.UpgradeRequest(**values), {"llm": Launch(folder / "llm")})  # type: ignore[arg-type]
