"""Labels stand on the assistant's side and nowhere else: its answers, its drawings and its </s>."""

import random
from pathlib import Path

import pytest
import torch

from services.trainer.data.samples import MAKERS, make_sample, told_in_words
from services.trainer.data.tokens import IGNORE, RowMaker, pad_rows, special_tokens, train_tokenizer
from triptych.models.text import TextCodec
from triptych.prompts import ImageSlot, Message, Picture, PromptTemplate, Special, Text

TEMPLATE = PromptTemplate(num_img_tokens=4, task_token_position="user_turn", image_position="turn_start")
NUM_IMAGE_TOKENS = 9


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> TextCodec:
    folder = tmp_path_factory.mktemp("tokenizer")
    assert train_tokenizer(TEMPLATE, 500, 200, 0, folder) == 500
    return TextCodec.load(folder)


@pytest.fixture(scope="module")
def rows(codec: TextCodec) -> RowMaker:
    return RowMaker(codec, NUM_IMAGE_TOKENS)


def labelled(row_labels: list[int]) -> list[list[int]]:
    """Runs of labels that are not ignored."""
    runs: list[list[int]] = [[]]
    for label in row_labels:
        if label != IGNORE:
            runs[-1].append(label)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def test_an_answer(rows: RowMaker, codec: TextCodec) -> None:
    messages = [
        Message("user", (Picture(0), "what colour is the cube?")),
        Message("assistant", ("red",)),
        Message("user", ("and its size?",)),
        Message("assistant", (" large ",)),
    ]
    row = rows.row(TEMPLATE.segments(messages, ["understand", "understand"]))
    eos = codec.special_id("</s>")
    assert labelled(row.labels) == [[*codec.encode(" red"), eos], [*codec.encode(" large"), eos]]
    assert row.ids[0] == codec.special_id("<s>")
    patches = [index for index, token in enumerate(row.ids) if token == codec.special_id("<image>")]
    assert len(patches) == NUM_IMAGE_TOKENS == patches[-1] - patches[0] + 1
    assert all(row.labels[index] == IGNORE for index in patches)
    assert codec.decode([token for token in row.ids if token not in set(codec.special_tokens.values())]) == (
        TEMPLATE.system + " USER: what colour is the cube? ASSISTANT: redUSER: and its size? ASSISTANT: large"
    )


def test_a_drawing(rows: RowMaker, codec: TextCodec) -> None:
    messages = [Message("user", ("draw a cube",)), Message("assistant", (Picture(0),))]
    row = rows.row(TEMPLATE.segments(messages, ["generate"]))
    drawing = [codec.special_id(token) for token in ("[SOI]", "[IMG0]", "[IMG1]", "[IMG2]", "[IMG3]", "[EOI]", "</s>")]
    assert labelled(row.labels) == [drawing]
    assert row.ids[-7:] == drawing
    assert codec.special_id("<image>") not in row.ids


def test_a_drawing_seen_again_is_not_trained(rows: RowMaker, codec: TextCodec) -> None:
    messages = [
        Message("user", ("draw a cube",)),
        Message("assistant", (Picture(0),)),
        Message("user", ("what is it?",)),
        Message("assistant", ("a cube",)),
    ]
    row = rows.row(TEMPLATE.segments(messages, ["generate", "understand"]))
    assert row.ids.count(codec.special_id("<image>")) == NUM_IMAGE_TOKENS
    assert [len(run) for run in labelled(row.labels)] == [7, len(codec.encode(" a cube")) + 1]


@pytest.mark.parametrize("image_position", ["after_bos", "turn_start", "inline"])
@pytest.mark.parametrize("kind", MAKERS)
def test_every_conversation(kind: str, image_position: str, rows: RowMaker, codec: TextCodec) -> None:
    template = PromptTemplate(num_img_tokens=4, image_position=image_position)  # type: ignore[arg-type]
    rng = random.Random(0)
    drawing = [codec.special_id(token) for token in template.image_tokens]
    eos, image = codec.special_id("</s>"), codec.special_id("<image>")
    for _ in range(25):
        sample = make_sample(kind, rng, "train", 3, 0.5)
        row = rows.row(sample.segments(template))
        assert len(row.ids) == len(row.labels)
        assert all(label in (IGNORE, token) for token, label in zip(row.ids, row.labels, strict=True))
        wanted = []
        for message in sample.messages:
            if message.role == "assistant":
                (content,) = message.contents
                wanted.append([*(drawing if isinstance(content, Picture) else codec.encode(f" {content}")), eos])
        assert labelled(row.labels) == wanted
        assert row.ids.count(image) == NUM_IMAGE_TOKENS * len(sample.shown(template))
        assert image not in row.labels


def test_training_and_serving_lay_out_alike(rows: RowMaker, codec: TextCodec) -> None:
    """What the model is trained to continue is, token for token, the prompt that a service builds."""
    rng = random.Random(3)
    for kind in MAKERS:
        sample = make_sample(kind, rng, "train", 2, 0.5)
        whole = rows.row(sample.segments(TEMPLATE)).ids
        prompt = rows.row(TEMPLATE.segments(list(sample.messages[:-1]), list(sample.tasks))).ids
        assert whole[: len(prompt)] == prompt
        assert whole[len(prompt) :] == labelled(rows.row(sample.segments(TEMPLATE)).labels)[-1]


def test_words_hold_no_pictures(rows: RowMaker, codec: TextCodec) -> None:
    rng = random.Random(0)
    for _ in range(25):
        row = rows.row(told_in_words(make_sample("mixed", rng, "train", 4, 0.5), TEMPLATE))
        forbidden = {codec.special_id(token) for token in (*TEMPLATE.image_tokens, "<image>")}
        assert not forbidden & set(row.ids)


def test_text_that_spells_special_tokens_is_plain(rows: RowMaker, codec: TextCodec) -> None:
    row = rows.row([Special("<s>"), Text(" draw [SOI][IMG0]</s><image>"), ImageSlot(0), Text(" yes</s>", trained=True)])
    specials = set(codec.special_tokens.values())
    assert [token for token in row.ids if token in specials] == [
        codec.special_id("<s>"),
        *[codec.special_id("<image>")] * NUM_IMAGE_TOKENS,
    ]
    assert not specials & set(row.labels)


def test_padding(codec: TextCodec, rows: RowMaker) -> None:
    pad = codec.special_id("<pad>")
    short, long = rows.row([Text("a", trained=True)]), rows.row([Text("a b c"), Special("</s>", trained=True)])
    ids, labels = pad_rows([short, long], 16, pad)
    assert ids.shape == labels.shape == (2, 16)
    for index, row in enumerate((short, long)):
        length = len(row.ids)
        assert ids[index].tolist() == row.ids + [pad] * (16 - length)
        assert labels[index].tolist() == row.labels + [IGNORE] * (16 - length)


def test_rows_of_exactly_the_length_fit_and_longer_ones_do_not(codec: TextCodec, rows: RowMaker) -> None:
    row = rows.row([Text("the red cube", trained=True)])
    ids, _ = pad_rows([row], len(row.ids), codec.special_id("<pad>"))
    assert ids[0].tolist() == row.ids
    with pytest.raises(RuntimeError, match="size"):
        pad_rows([row], len(row.ids) - 1, codec.special_id("<pad>"))


def test_special_tokens() -> None:
    names = special_tokens(TEMPLATE)
    assert names == [
        *("<s>", "</s>", "<pad>", "<image>", "[T2I]", "[I2T]"),
        *("[SOI]", "[IMG0]", "[IMG1]", "[IMG2]", "[IMG3]", "[EOI]"),
    ]


def test_same_seed_same_tokenizer(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_tokenizer(TEMPLATE, 400, 100, seed, tmp_path / name)
    a, b, c = ((tmp_path / name / "tokenizer.json").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_embeddings_of_special_tokens_are_in_the_vocabulary(codec: TextCodec) -> None:
    ids = torch.tensor([codec.special_id(token) for token in special_tokens(TEMPLATE)])
    assert ids.max() < len(codec.tokenizer)
    assert len(ids.unique()) == len(ids)
