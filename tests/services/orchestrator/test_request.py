import pytest

from services.orchestrator.config import OrchestratorConfig
from services.orchestrator.request import Request, parse
from tests.services.orchestrator.cards import message, picture
from triptych.errors import InvalidArgument
from triptych.prompts import Message, Picture
from triptych.v1 import llm_pb2
from triptych.v1 import orchestrator_pb2 as pb

LIMITS = OrchestratorConfig(
    max_messages=5, max_text_chars=50, max_images_per_request=2, max_image_bytes=1000, max_pixels=100
)


def parsed(*messages: pb.Message, task: str = "AUTO", **fields) -> Request:
    return parse(pb.RespondRequest(messages=messages, task=f"TASK_{task}", **fields), LIMITS)


def test_contents_in_reading_order() -> None:
    request = parsed(message("USER", "left", b"one", "right", b"two"))
    assert request.messages == (Message("user", ("left", Picture(0), "right", Picture(1))),)
    assert [upload.data for upload in request.pictures] == [b"one", b"two"]
    assert request.pictures[1].field == "messages[0].contents[3].image"


def test_pictures_count_through_the_conversation() -> None:
    request = parsed(message("USER", b"one"), message("ASSISTANT", b"two", "ok"), message("USER", "why?"))
    assert request.messages[1].contents == (Picture(1), "ok")


@pytest.mark.parametrize(
    ("task", "expected"),
    [("UNSPECIFIED", "auto"), ("AUTO", "auto"), ("UNDERSTAND", "understand"), ("GENERATE", "generate")],
)
def test_task_of_the_last_turn(task: str, expected: str) -> None:
    assert parsed(message("USER", "x"), task=task).task == expected


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([message("USER", "a"), message("ASSISTANT", "b")], "understand"),
        ([message("USER", "a"), message("ASSISTANT", b"drawn")], "generate"),
        ([message("USER", "a", b"given"), message("ASSISTANT", b"drawn")], "edit"),
        ([message("USER", "a", b"given"), message("ASSISTANT", "b")], "understand"),
        ([message("USER", "a")], "understand"),
    ],
)
def test_tasks_of_past_turns_are_told_from_what_followed(messages: list[pb.Message], expected: str) -> None:
    assert parsed(*messages, message("USER", "now"), task="GENERATE").tasks == (expected, "generate")


def test_second_picture_in_a_row_was_an_edit() -> None:
    history = [message("USER", "a"), message("ASSISTANT", b"one"), message("USER", "b"), message("ASSISTANT", b"two")]
    assert parsed(*history, message("USER", "c")).tasks == ("generate", "edit", "auto")


def test_empty_reply_in_the_history_is_fine() -> None:
    assert parsed(message("USER", "a"), message("ASSISTANT"), message("USER", "b")).messages[1].contents == ()


BAD = {
    "messages has 0 entries, must be 1 to 5": pb.RespondRequest(),
    "messages has 6 entries, must be 1 to 5": pb.RespondRequest(messages=[message("USER", "a")] * 6),
    r"messages\[1\].role is assistant": pb.RespondRequest(messages=[message("USER", "a"), message("ASSISTANT", "b")]),
    r"messages\[0\].role is 0": pb.RespondRequest(messages=[pb.Message(contents=[pb.Content(text="a")])]),
    r"messages\[0\].role is 7": pb.RespondRequest(messages=[pb.Message(role=7, contents=[pb.Content(text="a")])]),
    r"messages\[0\] holds no text and no image": pb.RespondRequest(messages=[message("USER", " \n")]),
    r"messages\[0\].contents\[0\] is empty": pb.RespondRequest(
        messages=[pb.Message(role=pb.ROLE_USER, contents=[pb.Content()])]
    ),
    "text has 51 characters, must be 0 to 50": pb.RespondRequest(messages=[message("USER", "a" * 51)]),
    "images has 3 images, must be 0 to 2": pb.RespondRequest(messages=[message("USER", b"a", b"b", b"c")]),
    r"messages\[0\].contents\[0\].image has 0 bytes": pb.RespondRequest(messages=[message("USER", b"")]),
    "image has 1001 bytes, must be 1 to 1000": pb.RespondRequest(messages=[message("USER", bytes(1001))]),
    "contents has 4097 entries, must be 0 to 4096": pb.RespondRequest(messages=[message("USER", *[""] * 4097)]),
    "task is 9": pb.RespondRequest(messages=[message("USER", "a")], task=9),
    "TASK_EDIT with 0 images": pb.RespondRequest(messages=[message("USER", "a")], task=pb.TASK_EDIT),
}


@pytest.mark.parametrize(("complaint", "request_"), BAD.items())
def test_bad_conversations(complaint: str, request_: pb.RespondRequest) -> None:
    with pytest.raises(InvalidArgument, match=complaint):
        parse(request_, LIMITS)


@pytest.mark.parametrize(
    ("field", "value", "bound"),
    [
        ("temperature", -0.1, "0 to 10"),
        ("temperature", 10.1, "0 to 10"),
        ("temperature", float("nan"), "0 to 10"),
        ("top_k", -1, "0 to"),
        ("top_p", 0.0, "above 0 and at most 1"),
        ("top_p", 1.1, "0 to 1"),
        ("top_p", float("nan"), "0 to 1"),
        ("max_tokens", 0, "1 to"),
        ("seed", -1, "0 to"),
        ("stop", [""], r"stop\[0\] has 0 characters"),
        ("stop", ["a"] * 17, "stop has 17 entries, must be 0 to 16"),
    ],
)
def test_bad_sampling(field: str, value, bound: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"sampling.{field}.*{bound}|sampling.{bound}"):
        parsed(message("USER", "a"), sampling=llm_pb2.SamplingParams(**{field: value}))


@pytest.mark.parametrize(
    ("field", "value", "bound"),
    [
        ("seed", -1, "0 to"),
        ("num_inference_steps", 0, "1 to"),
        ("num_inference_steps", -5, "1 to"),
        ("guidance_scale", -0.5, "0 to 50"),
        ("guidance_scale", 50.5, "0 to 50"),
        ("guidance_scale", float("nan"), "0 to 50"),
        ("guidance_scale", float("inf"), "0 to 50"),
        ("preview_interval", -1, "0 to"),
        ("max_images", 0, "1 to 2"),
        ("max_images", 3, "1 to 2"),
    ],
)
def test_bad_image_params(field: str, value: float, bound: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"image_params.{field} is {value:g}, must be {bound}"):
        parsed(message("USER", "a"), image_params=pb.ImageParams(**{field: value}))


def test_params_at_their_bounds_are_fine() -> None:
    sampling = llm_pb2.SamplingParams(temperature=0, top_k=0, top_p=1, max_tokens=1, seed=2**63 - 1, stop=["a" * 256])
    images = pb.ImageParams(seed=0, num_inference_steps=1, guidance_scale=0, preview_interval=0, max_images=2)
    request = parsed(message("USER", picture()), sampling=sampling, image_params=images)
    assert (request.sampling, request.image_params) == (sampling, images)
