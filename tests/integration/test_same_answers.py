"""Four processes say and draw exactly what one process does: the same tokens, the same pixels."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.integration.pictures import encoded, noise, pixels_of
from tests.integration.processes import System, wait_until
from triptych.client import Client
from triptych.models.unified import Reply, UnifiedModel
from triptych.prompts import Message, Picture, Task
from triptych.replies import Reply as ServedReply
from triptych.replies import TextDelta
from triptych.requests import Params

STEPS, GUIDANCE, MAX_TOKENS = 5, 2.5, 24
SAMPLING = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "max_tokens": MAX_TOKENS}


def params(seed: int) -> Params:
    return Params(seed=seed, steps=STEPS, guidance=GUIDANCE, max_tokens=MAX_TOKENS)


def assert_same(served: ServedReply, expected: Reply) -> None:
    assert served.text == expected.text
    assert served.done.usage.num_generated_tokens == len(expected.token_ids)
    assert served.done.finish_reason == expected.finish_reason
    assert len(served.images) == served.done.usage.num_images == len(expected.pictures)
    for drawing, picture in zip(served.images, expected.pictures, strict=True):
        np.testing.assert_array_equal(pixels_of(drawing.png), picture)


@pytest.mark.parametrize("question", ["What is in the picture?", "how many blocks", "¿Où? <s>[SOI]"])
def test_ask(client: Client, unified: UnifiedModel, question: str) -> None:
    picture = noise(seed=len(question))
    served = client.chat().send(question, [picture], "understand", params(0))
    messages = [Message("user", (Picture(0), question))]
    expected = unified.respond(messages, ["understand"], [picture], **SAMPLING)
    assert expected.token_ids
    assert_same(served, expected)


def test_streamed_text_is_the_whole_text(client: Client) -> None:
    picture = noise()
    deltas = [e.text for e in client.stream("what?", [picture], "understand") if isinstance(e, TextDelta)]
    assert len(deltas) > 1
    assert "".join(deltas).strip() == client.ask(picture, "what?").text


@pytest.mark.parametrize("seed", [0, 12345, 2**63 - 1])
def test_draw(client: Client, unified: UnifiedModel, seed: int) -> None:
    text = "a large red circle in the center"
    served = client.chat().send(text, (), "generate", params(seed))
    assert_same(served, unified.respond([Message("user", (text,))], ["generate"], [], seed=seed, **SAMPLING))
    assert {drawing.seed for drawing in served.images} == {seed}


def test_edit(client: Client, unified: UnifiedModel) -> None:
    picture, text = noise(seed=4), "make it blue"
    served = client.chat().send(text, [picture], "edit", params(9))
    messages = [Message("user", (Picture(0), text))]
    assert_same(served, unified.respond(messages, ["edit"], [picture], seed=9, **SAMPLING))


def test_conversation_sees_its_own_pictures_again(client: Client, unified: UnifiedModel) -> None:
    turns: list[tuple[Task, str]] = [
        ("generate", "draw a red square"),
        ("edit", "make it blue"),
        ("understand", "what colour is it?"),
    ]
    chat = client.chat()
    messages: list[Message] = []
    tasks: list[Task] = []
    images: list[Image.Image] = []
    for task, text in turns:
        messages.append(Message("user", (text,)))
        tasks.append(task)
        expected = unified.respond(messages, tasks, images, seed=3, **SAMPLING)
        served = chat.send(text, (), task, params(3))
        assert_same(served, expected)
        assert bool(served.images) == (task != "understand")
        contents: list[str | Picture] = []
        for content in served.contents:
            contents.append(content if isinstance(content, str) else Picture(len(images)))
            if not isinstance(content, str):
                images.append(Image.open(io.BytesIO(content.png)))
        messages.append(Message("assistant", tuple(contents)))
    stages = {stage.stage for stage in served.stage_times}
    assert stages == {"encoder", "llm"}, "what was drawn has been encoded and read"


def test_same_seed_draws_the_same_picture_whatever_else_runs(client: Client, system: System) -> None:
    alone = client.draw("a cross", seed=5, steps=20).png
    with Client(system.address) as busy:
        others = [busy.stream(f"a circle {i}", (), "generate", Params(seed=i, steps=50)) for i in range(3)]
        for other in others:
            next(other)  # each is under way
        assert client.draw("a cross", seed=5, steps=20).png == alone
        for other in others:
            other.close()
    assert client.draw("a cross", seed=6, steps=20).png != alone


def test_every_kind_of_picture_file(client: Client, unified: UnifiedModel) -> None:
    """Each is answered as the RGB picture that it shows."""
    rgb = noise(seed=8)
    alpha = rgb.convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize(rgb.size))
    on_white = Image.alpha_composite(Image.new("RGBA", rgb.size, "white"), alpha).convert("RGB")
    eight_bits = rgb.convert("L")
    sixteen_bits = Image.fromarray(np.asarray(eight_bits).astype(np.uint16) << 8)
    cmyk = encoded(rgb.convert("CMYK"), "JPEG")
    files = {
        "alpha": (encoded(alpha), on_white),
        "16 bits": (encoded(sixteen_bits), eight_bits.convert("RGB")),
        "CMYK": (cmyk, Image.open(io.BytesIO(cmyk)).convert("RGB")),
        "palette": (encoded(rgb.quantize(64)), rgb.quantize(64).convert("RGB")),
        "one bit": (encoded(rgb.convert("1")), rgb.convert("1").convert("RGB")),
    }
    for name, (data, shown) in files.items():
        messages = [Message("user", (Picture(0), "what?"))]
        expected = unified.respond(messages, ["understand"], [shown], **SAMPLING)
        served = client.chat().send("what?", [data], "understand", params(0))
        assert served.text == expected.text, name


@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
def test_turned_picture_is_answered_as_its_upright_twin(client: Client, orientation: int) -> None:
    turned = noise(seed=orientation)
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        6: Image.Transpose.ROTATE_270,
        8: Image.Transpose.ROTATE_90,
    }[orientation]
    upright = turned.transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    chat = params(0)
    answer = client.ask(upright, "what is it?", chat).text
    assert client.ask(encoded(turned, exif=exif.tobytes()), "what is it?", chat).text == answer
    assert client.ask(encoded(turned), "what is it?", chat).text != answer, "else this test would show nothing"


def test_picture_seen_before_is_not_encoded_again(client: Client, system: System) -> None:
    wait_until(lambda: "triptych_encoder_images_total" in system.metrics("encoder"), "a first picture")
    picture = noise(seed=77)
    first = client.ask(picture, "what?")
    encoded_before = system.metrics("encoder")["triptych_encoder_images_total"]
    second = client.ask(picture, "what?")
    assert second.text == first.text
    assert [t.stage for t in first.done.stage_times] == ["encoder", "llm"]
    assert [t.stage for t in second.done.stage_times] == ["llm"]
    assert system.metrics("encoder")["triptych_encoder_images_total"] == encoded_before
