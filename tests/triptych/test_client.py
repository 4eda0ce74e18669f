import asyncio
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from PIL import Image

from tests.triptych.fake_orchestrator import FakeOrchestrator, png
from triptych import errors
from triptych.client import AsyncClient, Client
from triptych.replies import Done, Drawing, ImageStarted, Preview, Progress, TextDelta
from triptych.requests import Params
from triptych.v1 import orchestrator_pb2 as pb


@pytest.fixture
def client(server: FakeOrchestrator) -> Iterator[Client]:
    with Client(server.address, timeout_s=10) as made:
        yield made


def test_ask(client: Client, server: FakeOrchestrator) -> None:
    answer = client.ask(png(), "what is it?", Params(temperature=0.5, max_tokens=9, stop=("x",)))
    assert answer.text == "a red circle"
    assert answer.done.request_id == "req7"
    assert answer.done.usage.num_generated_tokens == 4
    request = server.requests[0]
    assert request.task == pb.TASK_UNDERSTAND
    assert [c.WhichOneof("content") for c in request.messages[0].contents] == ["image", "text"]
    assert (request.sampling.temperature, request.sampling.max_tokens, request.sampling.stop) == (0.5, 9, ["x"])
    assert not request.sampling.HasField("seed")
    assert not request.image_params.HasField("seed")


def test_images_as_path_bytes_and_pil(client: Client, server: FakeOrchestrator, tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    path.write_bytes(png("red"))
    client.ask([path, str(path), png("red"), Image.new("RGB", (8, 8), "red")], "same?")
    sent = [c.image for c in server.requests[0].messages[0].contents[:-1]]
    assert len(sent) == 4
    assert {Image.open(io.BytesIO(data)).getpixel((0, 0)) for data in sent} == {(255, 0, 0)}


def test_draw_and_save(client: Client, server: FakeOrchestrator, tmp_path: Path) -> None:
    drawing = client.draw("a blue square", seed=7, steps=4, guidance=2.5)
    assert (drawing.seed, drawing.width, drawing.height) == (7, 8, 8)
    params = server.requests[0].image_params
    assert (params.seed, params.num_inference_steps, params.guidance_scale) == (7, 4, 2.5)
    assert server.requests[0].task == pb.TASK_GENERATE
    drawing.save(tmp_path / "out.png")
    drawing.save(tmp_path / "out.jpg")
    assert (tmp_path / "out.png").read_bytes() == drawing.png
    with Image.open(tmp_path / "out.jpg") as saved:
        assert saved.format == "JPEG"
    assert drawing.to_pil().getpixel((0, 0)) == (0, 0, 255)


def test_edit(client: Client, server: FakeOrchestrator) -> None:
    client.edit(png(), "make it blue")
    assert server.requests[0].task == pb.TASK_EDIT
    assert server.requests[0].messages[0].contents[0].image == png()


def test_seed_zero_is_a_seed(client: Client, server: FakeOrchestrator) -> None:
    client.draw("x", seed=0)
    assert server.requests[0].image_params.HasField("seed")


def test_stream_of_typed_events(client: Client) -> None:
    events = list(client.stream("draw", params=Params(preview_interval=1)))
    assert [type(e) for e in events] == [
        *(TextDelta, TextDelta, ImageStarted, Progress, Preview, Progress, Preview, Drawing, TextDelta, Done),
    ]
    assert events[3] == Progress(0, 1, 2)


def test_conversation_remembers_drawn_pictures(client: Client, server: FakeOrchestrator) -> None:
    chat = client.chat()
    reply = chat.send("draw a circle")
    assert reply.text == "a red circle done"
    assert [type(c) for c in reply.contents] == [str, Drawing, str]
    assert reply.stage_times[0].stage == "llm"
    chat.send("make it blue", task="edit")
    history = server.requests[1].messages
    assert [m.role for m in history] == [pb.ROLE_USER, pb.ROLE_ASSISTANT, pb.ROLE_USER]
    assert [c.WhichOneof("content") for c in history[1].contents] == ["text", "image", "text"]
    assert history[1].contents[1].image == reply.images[0].png
    assert len(chat.messages) == 4


def test_turn_joins_the_history_with_its_last_event(client: Client) -> None:
    chat = client.chat()
    for event in chat.stream("hello"):
        assert len(chat.messages) == (2 if isinstance(event, Done) else 0)


def test_failed_turn_leaves_no_trace(client: Client, server: FakeOrchestrator) -> None:
    chat = client.chat()
    chat.send("one", task="understand")
    server.errors = [(grpc.StatusCode.INVALID_ARGUMENT, "image_params.seed is -1")]
    with pytest.raises(errors.InvalidArgument):
        chat.send("two")
    chat.send("three", task="understand")
    assert [m.contents[0].text for m in server.requests[-1].messages] == ["one", " a red circle", "three"]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, errors.InvalidArgument),
        (grpc.StatusCode.FAILED_PRECONDITION, errors.FailedPrecondition),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.ResourceExhausted),
        (grpc.StatusCode.UNIMPLEMENTED, errors.Unimplemented),
        (grpc.StatusCode.INTERNAL, errors.TriptychError),
    ],
)
def test_errors_carry_message_stage_replica_and_request_id(
    client: Client, server: FakeOrchestrator, code: grpc.StatusCode, kind: type[errors.TriptychError]
) -> None:
    server.errors = [(code, "seed is -1, must be at least 0")]
    with pytest.raises(kind, match=r"seed is -1, must be at least 0 \(request req7\)") as caught:
        client.draw("x")
    assert type(caught.value) is kind
    assert (caught.value.stage, caught.value.replica) == ("llm", "10.0.0.1:1")


def test_unavailable_is_retried(client: Client, server: FakeOrchestrator) -> None:
    server.errors = [(grpc.StatusCode.UNAVAILABLE, "no llm replica is serving")] * 2
    assert client.ask(png(size=(700, 700)) + bytes(400_000), "what?").text == "a red circle"
    assert len(server.requests) == 3


def test_nothing_is_retried_after_the_first_event(client: Client, server: FakeOrchestrator) -> None:
    server.breaks_after = 1
    seen = []
    with pytest.raises(errors.Unavailable, match="went away"):
        seen.extend(client.stream("hello"))
    assert len(server.requests) == 1


def test_nobody_there() -> None:
    with Client("127.0.0.1:1", timeout_s=10) as client:
        with pytest.raises(errors.Unavailable, match=r"no orchestrator answers at 127\.0\.0\.1:1"):
            client.components()


def test_timeout(server: FakeOrchestrator) -> None:
    server.hangs = True
    with Client(server.address, timeout_s=0.3) as client:
        with pytest.raises(errors.DeadlineExceeded):
            client.ask(png(), "what?")


def test_abandoned_stream_is_cancelled(client: Client, server: FakeOrchestrator) -> None:
    server.hangs = True
    events = client.stream("hello")
    next(events)
    events.close()
    assert server.cancelled.wait(2)


def test_lost_event_is_noticed(client: Client, server: FakeOrchestrator) -> None:
    server.skips = True
    with pytest.raises(errors.TriptychError, match="event 2 came where 1 was due"):
        client.ask(png(), "what?")


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda c: c.ask("/nowhere.png", "what?"), "/nowhere.png"),
        (lambda c: c.chat().send("x", task="paint"), "'paint'"),
        (lambda c: c.draw("x", seed=2**70), "seed"),
    ],
)
def test_what_cannot_be_sent(client: Client, server: FakeOrchestrator, call, named: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=named):
        call(client)
    assert server.requests == []


def test_reply_without_a_picture(client: Client, server: FakeOrchestrator) -> None:
    server._events = lambda request: FakeOrchestrator._events(server, pb.RespondRequest(task=pb.TASK_UNDERSTAND))
    with pytest.raises(errors.TriptychError, match="no picture"):
        client.draw("x")


def test_address_from_the_environment(server: FakeOrchestrator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_ADDRESS", server.address)
    with Client() as client:
        assert len(client.components().replicas) == 2


async def test_async_client(server: FakeOrchestrator, tmp_path: Path) -> None:
    async with AsyncClient(server.address, timeout_s=10) as client:
        answer, drawing, edited = await asyncio.gather(
            client.ask([png()], "what?"), client.draw("x", seed=3), client.edit(png(), "y", steps=2)
        )
        assert (answer.text, drawing.seed, edited.width) == ("a red circle", 3, 8)
        chat = client.chat()
        assert (await chat.send("draw")).images[0].seed == 5
        assert [type(e) async for e in chat.stream("go on", task="understand")] == [TextDelta, TextDelta, Done]
        assert len(server.requests[-1].messages) == 3
        assert len((await client.components()).chains) == 1


async def test_async_errors_and_retries(server: FakeOrchestrator) -> None:
    async with AsyncClient(server.address, timeout_s=10) as client:
        server.errors = [(grpc.StatusCode.UNAVAILABLE, "no llm replica is serving")]
        assert (await client.ask(png(), "what?")).text == "a red circle"
        server.errors = [(grpc.StatusCode.INVALID_ARGUMENT, "bad")]
        with pytest.raises(errors.InvalidArgument, match=r"bad \(request req7\)"):
            await client.draw("x")
        server.hangs = True
        events = client.stream("hello")
        await anext(events)
        await events.aclose()
        assert await asyncio.to_thread(server.cancelled.wait, 2)


def test_importing_the_client_is_light() -> None:
    heavy = "{'torch', 'transformers', 'diffusers', 'pydantic', 'PIL', 'services', 'prometheus_client'}"
    code = f"import sys, triptych.client, triptych.cli; print(sorted({heavy} & set(sys.modules)))"
    root = Path(__file__).parents[2]
    assert subprocess.check_output([sys.executable, "-c", code], cwd=root, text=True).strip() == "[]"
