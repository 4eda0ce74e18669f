"""Whatever a caller sends: a status that says what is wrong, and the next request works as if nothing had happened."""

import grpc
import pytest

from tests.integration.pictures import encoded, garbage, noise, png_header
from tests.integration.processes import STAGES, System, num_busy, wait_until
from triptych.client import Client
from triptych.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted
from triptych.replies import Progress
from triptych.requests import Params
from triptych.v1 import orchestrator_pb2 as pb
from triptych.v1.llm_pb2 import SamplingParams
from triptych.v1.orchestrator_pb2_grpc import OrchestratorServiceStub

MIB = 2**20


@pytest.fixture(autouse=True)
def still_works(client: Client, system: System):
    """After each of these tests, the same good request has the same good answer, and nothing is left running."""
    before = answers(client)
    yield
    assert answers(client) == before
    wait_until(lambda: all(num_busy(address) == 0 for address in system.components.values()), "all is idle", 5)


def answers(client: Client) -> tuple[str, bytes]:
    return client.ask(noise(), "what?").text, client.draw("a ball", seed=1).png


def request(text: str = "", images: tuple[bytes, ...] = (), **fields: object) -> pb.RespondRequest:
    contents = [pb.Content(image=image) for image in images] + ([pb.Content(text=text)] if text else [])
    return pb.RespondRequest(messages=[pb.Message(role=pb.ROLE_USER, contents=contents)], **fields)  # type: ignore[arg-type]


def complaint(client: Client, wrong: pb.RespondRequest) -> str:
    with pytest.raises(InvalidArgument) as caught:
        list(client.respond(wrong))
    assert "(request " in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (garbage(), "messages[0].contents[0].image (300 bytes) is not a picture"),
        (b"GIF89a", "messages[0].contents[0].image (6 bytes) is "),
        (encoded(noise(300, 200))[:5000], "(5000 bytes) is truncated or broken"),
        (encoded(noise(300, 200), "JPEG")[:3000], "(3000 bytes) is truncated or broken"),
        (b"", "messages[0].contents[0].image has 0 bytes, must be 1 to 20971520"),
        (png_header(0, 0), "messages[0].contents[0].image"),
        (png_header(0, 7), "messages[0].contents[0].image"),
        (png_header(50_000, 50_000), "messages[0].contents[0].image"),
        (png_header(5_000, 4_000), "is 5000x4000, must have at most 16777216 pixels"),
        (bytes(20 * MIB + 1), "has 20971521 bytes, must be 1 to 20971520"),
    ],
    ids=["noise", "stub", "half a PNG", "half a JPEG", "empty", "0x0", "0x7", "bomb", "too large", "too heavy"],
)
def test_picture_that_is_none(client: Client, data: bytes, says: str) -> None:
    assert says in complaint(client, request("what?", (data,)))


def test_broken_picture_among_good_ones(client: Client) -> None:
    good = encoded(noise())
    assert "messages[0].contents[1].image" in complaint(client, request("what?", (good, garbage(), good)))


def test_a_hundred_pictures(client: Client) -> None:
    images = tuple(encoded(noise(seed=seed)) for seed in range(100))
    assert "messages: images has 100 images, must be 0 to 16" in complaint(client, request("what?", images))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (pb.RespondRequest(), "messages has 0 entries, must be 1 to 256"),
        (request(), "messages[0] holds no text and no image"),
        (request("  \n"), "messages[0] holds no text and no image"),
        (request("x" * 200_001), "messages: text has 200001 characters, must be 0 to 200000"),
        (request("word " * 600), "tokens, must be at most 512"),
        (request("word " * 2000), "has 10000 characters, must be at most"),
        (request("x", task=99), "task is 99, must be one of TASK_UNSPECIFIED"),  # type: ignore[arg-type]
        (request("make it blue", task=pb.TASK_EDIT), "task is TASK_EDIT with 0 images"),
        (pb.RespondRequest(messages=[pb.Message(contents=[pb.Content(text="x")])]), "messages[0].role is 0"),
        (
            pb.RespondRequest(messages=[pb.Message(role=pb.ROLE_ASSISTANT, contents=[pb.Content(text="x")])]),
            "the last one must be the user's",
        ),
        (pb.RespondRequest(messages=[pb.Message(role=pb.ROLE_USER, contents=[pb.Content()])]), "contents[0] is empty"),
    ],
    ids=[
        "none",
        "empty",
        "blank",
        "endless",
        "many tokens",
        "many chars",
        "task",
        "edit nothing",
        "role",
        "last",
        "content",
    ],
)
def test_messages(client: Client, wrong: pb.RespondRequest, says: str) -> None:
    assert says in complaint(client, wrong)


@pytest.mark.parametrize(
    ("params", "says"),
    [
        (pb.ImageParams(seed=-1), "image_params.seed is -1, must be 0 to"),
        (pb.ImageParams(num_inference_steps=0), "image_params.num_inference_steps is 0, must be 1 to"),
        (
            pb.ImageParams(num_inference_steps=301),
            "image_params.num_inference_steps is 301, must be 1 to 300 for decoder",
        ),
        (pb.ImageParams(guidance_scale=-0.5), "image_params.guidance_scale is -0.5, must be 0 to 50"),
        (pb.ImageParams(guidance_scale=float("nan")), "image_params.guidance_scale is nan"),
        (pb.ImageParams(preview_interval=-1), "image_params.preview_interval is -1"),
        (pb.ImageParams(max_images=17), "image_params.max_images is 17, must be 1 to 16"),
        (SamplingParams(temperature=-1), "sampling.temperature is -1"),
        (SamplingParams(temperature=float("inf")), "sampling.temperature is inf"),
        (SamplingParams(temperature=50), "sampling.temperature is 50"),
        (SamplingParams(top_p=0), "sampling.top_p is 0, must be above 0"),
        (SamplingParams(top_k=-1), "sampling.top_k is -1"),
        (SamplingParams(max_tokens=0), "sampling.max_tokens is 0, must be 1 to"),
        (SamplingParams(max_tokens=513), "sampling.max_tokens is 513, must be 1 to 512 for llm"),
        (SamplingParams(seed=-1), "sampling.seed is -1"),
        (SamplingParams(stop=[""]), "sampling.stop[0] has 0 characters"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value).replace("\n", " "),
)
def test_parameters_out_of_range(client: Client, params: pb.ImageParams | SamplingParams, says: str) -> None:
    name = "image_params" if isinstance(params, pb.ImageParams) else "sampling"
    assert says in complaint(client, request("a ball", task=pb.TASK_GENERATE, **{name: params}))


def test_message_over_the_size_limit(client: Client, system: System) -> None:
    """Refused by our client before it is sent, and by the server when another client sends it."""
    huge = request("what?", (bytes(65 * MIB),))
    with pytest.raises(ResourceExhausted, match="larger than max"):
        list(client.respond(huge))
    with grpc.insecure_channel(system.address, options=[("grpc.max_send_message_length", -1)]) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            list(OrchestratorServiceStub(channel).Respond(huge, timeout=60))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[attr-defined]
    assert "larger than max" in caught.value.details()  # type: ignore[attr-defined]


LONG = Params(seed=1, steps=200, preview_interval=1)


def test_client_that_goes_away_mid_drawing(client: Client, system: System) -> None:
    decoder = system.components["decoder"]
    made_before = system.metrics("decoder")["triptych_decoder_images_total"]
    events = client.stream("a ball", (), "generate", LONG)
    assert next(event.step for event in events if isinstance(event, Progress)) == 1
    assert num_busy(decoder) == 1
    events.close()
    wait_until(lambda: all(num_busy(system.components[stage]) == 0 for stage in STAGES), "all is idle", 5)
    assert system.metrics("decoder")["triptych_decoder_images_total"] == made_before, "nobody waited for it"


def test_deadline_that_passes_mid_drawing(client: Client, system: System) -> None:
    with Client(system.address, timeout_s=0.1) as hurried:
        with pytest.raises(DeadlineExceeded):
            list(hurried.stream("a ball", (), "generate", LONG))
    wait_until(lambda: all(num_busy(system.components[stage]) == 0 for stage in STAGES), "all is idle", 5)


def test_more_text_than_tokens_is_cut_short_and_says_so(client: Client) -> None:
    reply = client.chat().send("hello", params=Params(max_tokens=2))
    assert reply.done.finish_reason == "length"
    assert reply.done.usage.num_generated_tokens >= 2
