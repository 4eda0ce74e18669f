"""Cards over the wire, and Describe on a real server before it is ready."""

from dataclasses import replace

import pytest

from tests.triptych.serving.harness import TestConfig
from tests.triptych.test_card import CARD
from triptych.card import Card, Port
from triptych.errors import CheckpointError
from triptych.serving.batching import Load
from triptych.serving.channels import open_channel
from triptych.serving.describe import (
    SERVICE_NAME,
    ComponentServicer,
    card_from_proto,
    card_to_proto,
    new_replica_id,
)
from triptych.serving.server import GrpcServer
from triptych.v1 import component_pb2 as pb
from triptych.v1 import component_pb2_grpc


def test_round_trip() -> None:
    card = replace(CARD, digest="sha256:1", inputs=(Port("e", "embeddings", space="a@1", accepts=("a@0",)),))
    back = card_from_proto(pb.Card.FromString(card_to_proto(card).SerializeToString()))
    assert back == replace(card, probes=None, exports={})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "toaster"}, "kind is 'toaster'"),
        ({"facts_json": "{"}, "facts_json"),
        ({"made_by_json": "[]"}, "made_by_json is list, must be an object"),
        ({"outputs": [pb.Port(name="e", type="embeddings")]}, "port 'e' of type embeddings needs a space"),
    ],
)
def test_malformed_cards_name_the_component(changes: dict[str, object], message: str) -> None:
    good = {"kind": "encoder", "name": "siglip", "version": "1.0.0"}
    with pytest.raises(CheckpointError, match=f"siglip 1.0.0: .*{message}"):
        card_from_proto(pb.Card(**(good | changes)))  # type: ignore[arg-type]


def test_an_empty_card_has_no_facts() -> None:
    card = card_from_proto(pb.Card(kind="llm", name="a", version="1"))
    assert card == Card("llm", "a", "1")


def test_replica_ids_are_new_each_time() -> None:
    assert len({new_replica_id() for _ in range(100)}) == 100


async def test_describe_answers_before_the_replica_is_ready() -> None:
    load = Load(1, 2, 64)
    servicer = ComponentServicer(CARD, lambda: load, "r1", "torch", "cpu", "f32")
    server = GrpcServer(TestConfig(), servicer.add_to, [SERVICE_NAME])
    async with open_channel(await server.start(), 2**20) as channel:
        stub = component_pb2_grpc.ComponentServiceStub(channel)
        before = await stub.Describe(pb.DescribeRequest())
        servicer.probe_cosine = 0.9995
        after = await stub.Describe(pb.DescribeRequest())
    await server.drain(0)
    assert (before.replica_id, before.backend, before.device, before.dtype) == ("r1", "torch", "cpu", "f32")
    assert before.load == pb.Load(num_running=1, num_waiting=2, max_waiting=64)
    assert card_from_proto(before.card).name == CARD.name
    assert (before.probe_cosine, after.probe_cosine) == (0.0, 0.9995)
