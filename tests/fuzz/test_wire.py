"""Whatever comes over the wire is taken or refused with an error of ours: nothing else, and nothing large."""

import json
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from services.orchestrator.config import OrchestratorConfig
from services.orchestrator.facts import check_card
from services.orchestrator.request import parse
from tests.fuzz.profiles import examples
from triptych.card import Card
from triptych.errors import CheckpointError, InvalidArgument, TriptychError
from triptych.serving import request_id
from triptych.serving.describe import card_from_proto, card_to_proto
from triptych.tensors import CHUNK_BYTES, MAX_RANK, TensorAssembler, to_messages
from triptych.v1 import component_pb2, tensor_pb2
from triptych.v1 import orchestrator_pb2 as pb

LIMITS = OrchestratorConfig()
MAX_BYTES = 2**20

sizes = st.one_of(st.integers(-2, 9), st.integers(-(2**63), 2**63 - 1))
headers = st.builds(
    tensor_pb2.Tensor,
    dtype=st.integers(-1, 12),
    shape=st.lists(sizes, max_size=MAX_RANK + 2),
    data=st.binary(max_size=64),
    num_chunks=st.one_of(st.integers(0, 4), st.integers(0, 2**31 - 1)),
)


@examples(300)
@given(headers, st.lists(st.binary(max_size=64), max_size=5))
@example(tensor_pb2.Tensor(dtype=1, shape=[2**62] * 8, num_chunks=1), [b"x"])
@example(tensor_pb2.Tensor(dtype=1, shape=[-1, -4], data=b"\0" * 16), [])
@example(tensor_pb2.Tensor(dtype=1, shape=[0], num_chunks=0), [])
@example(tensor_pb2.Tensor(dtype=1, shape=[], data=b"\0\0\0\0"), [])
@example(tensor_pb2.Tensor(dtype=6, shape=[2**20], num_chunks=2**20), [b""])
def test_tensor(header: tensor_pb2.Tensor, chunks: list[bytes]) -> None:
    try:
        assembler = TensorAssembler(header, MAX_BYTES)
        for data in chunks:
            assembler.add(tensor_pb2.TensorChunk(data=data))
        array = assembler.array()
    except InvalidArgument:
        return
    assert array.shape == tuple(header.shape)
    assert array.nbytes <= 2 * MAX_BYTES  # 16 bits are widened


@examples(100)
@given(st.sampled_from(["f4", "f2", "i8", "i4", "u1"]), st.lists(st.integers(1, 9), max_size=4), st.randoms())
def test_tensors_come_back(dtype: str, shape: list[int], random: Any) -> None:
    array = np.asarray(np.random.default_rng(random.randrange(2**32)).integers(0, 100, shape)).astype(dtype)
    header, chunks = to_messages(array)
    assembler = TensorAssembler(header, 2 * CHUNK_BYTES)
    for chunk in chunks:
        assembler.add(chunk)
    np.testing.assert_array_equal(assembler.array(), array)


texts = st.text(max_size=20)
contents = st.one_of(
    st.builds(pb.Content, text=texts), st.builds(pb.Content, image=st.binary(max_size=9)), st.just(pb.Content())
)
requests = st.builds(
    pb.RespondRequest,
    task=st.integers(-1, 9),
    messages=st.lists(
        st.builds(pb.Message, role=st.integers(-1, 4), contents=st.lists(contents, max_size=3)), max_size=4
    ),
)


def check_request(request: pb.RespondRequest) -> None:
    try:
        parsed = parse(request, LIMITS)
    except InvalidArgument as error:
        assert str(error)
        return
    assert len(parsed.pictures) <= LIMITS.max_images_per_request
    assert parsed.messages[-1].role == "user"


@examples(150)
@given(requests)
def test_request(request_: pb.RespondRequest) -> None:
    check_request(request_)


@examples(400)
@given(st.binary(max_size=200))
@example(b"")
@example(b"\x0a\xff\xff\xff\xff\x0f")
def test_request_bytes(data: bytes) -> None:
    """What protobuf takes for a request of these bytes."""
    try:
        request = pb.RespondRequest.FromString(data)
    except DecodeError:
        return
    check_request(request)


@examples(100)
@given(
    st.sampled_from(["temperature", "top_p", "top_k", "max_tokens", "seed"]),
    st.one_of(st.floats(width=32), st.integers(-(2**31), 2**31 - 1)),
)
@example("temperature", float("nan"))
@example("top_p", float("inf"))
def test_sampling(name: str, value: float) -> None:
    request = pb.RespondRequest(messages=[pb.Message(role=pb.ROLE_USER, contents=[pb.Content(text="x")])])
    if name not in ("temperature", "top_p"):
        if value != value or abs(value) > 2**31 - 1:
            return
        value = int(value)
    setattr(request.sampling, name, value)
    check_request(request)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
facts = st.one_of(json_values.map(json.dumps), st.text(max_size=40))
ports = st.builds(
    component_pb2.Port,
    name=texts,
    type=st.sampled_from(["embeddings", "hidden_states", "image", "text", ""]),
    space=st.sampled_from(["", "a@1"]),
    dtype=st.sampled_from(["", "f32", "x"]),
    shape=st.lists(sizes, max_size=10),
    accepts=st.lists(texts, max_size=2),
)
cards = st.builds(
    component_pb2.Card,
    kind=st.sampled_from(["encoder", "llm", "decoder", "", "x"]),
    name=texts,
    version=texts,
    digest=texts,
    inputs=st.lists(ports, max_size=3),
    outputs=st.lists(ports, max_size=3),
    made_by_json=facts,
    facts_json=facts,
)


@examples(100)
@given(cards)
@example(component_pb2.Card(kind="llm", facts_json="[" * 200_000))
@example(component_pb2.Card(kind="llm", facts_json='{"a":' * 100_000 + "1" + "}" * 100_000))
@example(component_pb2.Card(kind="llm", facts_json='{"a": ' + "9" * 5000 + "}"))
@example(component_pb2.Card(kind="llm", facts_json='{"a": NaN}'))
@example(component_pb2.Card(kind="llm", facts_json='{"a": 1, "a": 2}'))
@example(component_pb2.Card(kind="llm", name="a\nb"))
def test_card(message: component_pb2.Card) -> None:
    """What the orchestrator does with a replica's card, before it believes it."""
    try:
        card = card_from_proto(message)
    except CheckpointError:
        return
    assert isinstance(card, Card)
    assert card_from_proto(card_to_proto(card)) == card
    for stage in ("encoder", "llm", "decoder"):
        try:
            check_card(card, stage)
        except TriptychError as error:
            assert str(error)


@examples(200)
@given(st.text(max_size=200))
@example("a\r\nset-cookie: x")
@example("x" * 100_000)
def test_request_id(sent: str) -> None:
    """It goes into logs and headers."""
    accepted = request_id.accept(sent)
    assert accepted.isascii()
    assert accepted.isprintable()
    assert 0 < len(accepted) <= 128


def test_these_are_all_the_parsers_of_bytes_from_users() -> None:
    """A new request message means a new test here."""
    methods = pb.DESCRIPTOR.services_by_name["OrchestratorService"].methods
    assert {method.input_type.name for method in methods} == {"RespondRequest", "ListComponentsRequest"}
    with pytest.raises(DecodeError):
        pb.RespondRequest.FromString(b"\xff")
