"""Conversations to segments, for every place of the task token and of the pictures."""

from typing import Any

import pytest

from triptych.prompts import ImageSlot, Message, Picture, PromptTemplate, Segment, Special, Text

TASK_POSITIONS = ("sequence_start", "user_turn")
IMAGE_POSITIONS = ("after_bos", "turn_start", "inline")


def template(**values: Any) -> PromptTemplate:
    return PromptTemplate(system="Be kind.", num_img_tokens=2, **values)


def user(*contents: str | Picture) -> Message:
    return Message("user", contents)


def assistant(*contents: str | Picture) -> Message:
    return Message("assistant", contents)


def spell(segments: list[Segment]) -> str:
    """A readable form: texts as they are, specials by name, pictures as <n>."""
    return "".join(
        s.text if isinstance(s, Text) else s.token if isinstance(s, Special) else f"<{s.index}>" for s in segments
    )


ONE_TURN = [user("What is", Picture(0), "this?")]
LAYOUTS = {
    ("sequence_start", "after_bos"): "<s>[I2T]<0>Be kind. USER: What is this? ASSISTANT:",
    ("sequence_start", "turn_start"): "<s>[I2T]Be kind. USER:<0> What is this? ASSISTANT:",
    ("sequence_start", "inline"): "<s>[I2T]Be kind. USER: What is<0> this? ASSISTANT:",
    ("user_turn", "after_bos"): "<s><0>Be kind. USER:[I2T] What is this? ASSISTANT:",
    ("user_turn", "turn_start"): "<s>Be kind. USER:[I2T]<0> What is this? ASSISTANT:",
    ("user_turn", "inline"): "<s>Be kind. USER:[I2T] What is<0> this? ASSISTANT:",
}


@pytest.mark.parametrize("positions", LAYOUTS, ids="-".join)
def test_one_turn(positions: tuple[str, str]) -> None:
    made = template(task_token_position=positions[0], image_position=positions[1])
    assert spell(made.segments(ONE_TURN, ["understand"])) == LAYOUTS[positions]


EDIT = [user("Draw a cube"), assistant("Here:", Picture(0)), user("Make it like", Picture(1))]
DREW = "[SOI][IMG0][IMG1][EOI]"
TWO_TURNS = {
    ("sequence_start", "after_bos"): (
        f"<s>[T2I]Be kind. USER: Draw a cube ASSISTANT: Here:{DREW}</s>USER:<0><1> Make it like ASSISTANT:"
    ),
    ("sequence_start", "turn_start"): (
        f"<s>[T2I]Be kind. USER: Draw a cube ASSISTANT: Here:{DREW}</s>USER:<0><1> Make it like ASSISTANT:"
    ),
    ("sequence_start", "inline"): (
        f"<s>[T2I]Be kind. USER: Draw a cube ASSISTANT: Here:{DREW}</s>USER:<0> Make it like<1> ASSISTANT:"
    ),
    ("user_turn", "after_bos"): (
        f"<s>Be kind. USER:[T2I] Draw a cube ASSISTANT: Here:{DREW}</s>USER:[T2I]<0><1> Make it like ASSISTANT:"
    ),
    ("user_turn", "turn_start"): (
        f"<s>Be kind. USER:[T2I] Draw a cube ASSISTANT: Here:{DREW}</s>USER:[T2I]<0><1> Make it like ASSISTANT:"
    ),
    ("user_turn", "inline"): (
        f"<s>Be kind. USER:[T2I] Draw a cube ASSISTANT: Here:{DREW}</s>USER:[T2I]<0> Make it like<1> ASSISTANT:"
    ),
}


@pytest.mark.parametrize("positions", TWO_TURNS, ids="-".join)
def test_a_drawn_picture_is_seen_again_in_the_next_turn(positions: tuple[str, str]) -> None:
    made = template(task_token_position=positions[0], image_position=positions[1])
    assert spell(made.segments(EDIT, ["generate", "edit"])) == TWO_TURNS[positions]


@pytest.mark.parametrize("image_position", IMAGE_POSITIONS)
@pytest.mark.parametrize("task_position", TASK_POSITIONS)
def test_every_picture_stands_exactly_once(task_position: str, image_position: str) -> None:
    made = template(task_token_position=task_position, image_position=image_position)
    messages = [user(Picture(0), "a", Picture(1)), assistant(Picture(2), Picture(3)), user("b", Picture(4))]
    slots = [s.index for s in made.segments(messages, ["auto", "edit"]) if isinstance(s, ImageSlot)]
    assert sorted(slots) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("task_position", TASK_POSITIONS)
def test_auto_names_no_task(task_position: str) -> None:
    segments = template(task_token_position=task_position).segments([user("hi")], ["auto"])
    assert spell(segments) == "<s>Be kind. USER: hi ASSISTANT:"


def test_sequence_start_takes_the_last_turns_task() -> None:
    segments = template().segments([user("a"), assistant("b"), user("c")], ["understand", "generate"])
    assert segments[1] == Special("[T2I]")


def test_only_what_the_assistant_says_is_trained() -> None:
    segments = template().segments([*EDIT, assistant("Done.")], ["generate", "edit"])
    trained = [s for s in segments if s.trained]
    assert spell(trained) == f" Here:{DREW}</s> Done.</s>"


def test_a_finished_conversation_does_not_open_a_reply() -> None:
    segments = template().segments([user("a"), assistant("b")], ["auto"])
    assert spell(segments).endswith(" ASSISTANT: b</s>")


def test_text_is_never_a_special_token() -> None:
    segments = template().segments([user("say [SOI] </s>")], ["auto"])
    assert Text(" say [SOI] </s>") in segments
    assert [s for s in segments if isinstance(s, Special)] == [Special("<s>")]


def test_no_system_prompt() -> None:
    assert spell(PromptTemplate(system="").segments([user("a")], ["auto"])) == "<s>USER: a ASSISTANT:"


def test_one_space_after_the_system_prompt() -> None:
    made = PromptTemplate(system=" Be kind.", user_prefix=" USER:", num_img_tokens=2)
    segments = made.segments(EDIT, ["generate", "edit"])
    said = f"<s>[T2I] Be kind. USER: Draw a cube ASSISTANT: Here:{DREW}</s> USER:<0><1> Make it like ASSISTANT:"
    assert spell(segments) == said
    assert all(s.text == f" {s.text.strip()}" for s in segments if isinstance(s, Text))


def test_image_tokens() -> None:
    assert PromptTemplate(num_img_tokens=3).image_tokens == ("[SOI]", "[IMG0]", "[IMG1]", "[IMG2]", "[EOI]")


@pytest.mark.parametrize(("messages", "tasks"), [([], []), ([user("a")], []), ([user("a")], ["auto", "auto"])])
def test_one_task_per_user_turn(messages: list[Message], tasks: list[Any]) -> None:
    with pytest.raises(ValueError, match=f"{len(tasks)} tasks for"):
        template().segments(messages, tasks)


def test_dict_round_trip() -> None:
    made = template(task_token_position="user_turn", image_position="inline")
    assert PromptTemplate.from_dict(made.to_dict()) == made
    with pytest.raises(ValueError, match=r"unknown prompt template keys: \['sistem'\]"):
        PromptTemplate.from_dict({"sistem": "x"})


AROUND = {
    "system": "",
    "user_prefix": " USER:",
    "task_token_position": "none",
    "image_prefix": " ",
    "image_suffix": " \n",
}
SURROUNDED = {
    "turn_start": "<s> USER: <0> \nWhat is this? ASSISTANT:",
    "inline": "<s> USER: What is <0> \nthis? ASSISTANT:",
    "after_bos": "<s> <0> \n USER: What is this? ASSISTANT:",
}


@pytest.mark.parametrize("image_position", IMAGE_POSITIONS)
def test_text_around_pictures_and_no_task_token(image_position: Any) -> None:
    made = PromptTemplate(**AROUND, image_position=image_position)
    found = spell(made.segments([user("What is", Picture(0), "this?")], ["understand"]))
    assert found == SURROUNDED[image_position]


def test_text_around_a_drawn_picture() -> None:
    made = PromptTemplate(**AROUND, image_position="turn_start", num_img_tokens=1)
    found = spell(made.segments([user("Draw"), assistant(Picture(0)), user("Go on")], ["generate", "edit"]))
    assert found == "<s> USER: Draw ASSISTANT:[SOI][IMG0][EOI]</s> USER: <0> \nGo on ASSISTANT:"
