"""What is learned of a sample is what the assistant says in it: its words, its drawings, the end of its turns."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from services.trainer.data.catalogue import Catalogue
from services.trainer.data.collate import Collator
from services.trainer.data.reader import PreparedSample
from services.trainer.data.records import Record
from services.trainer.data.tokens import IGNORE, RowMaker
from tests.services.trainer.data.published import draw
from triptych.errors import FailedPrecondition, InvalidArgument
from triptych.models.encoder_stage import EncoderStage
from triptych.models.llm_stage import LlmStage
from triptych.prompts import Message, Picture


@pytest.fixture(scope="module")
def llm(tuning_root: Path) -> LlmStage:
    return LlmStage.load(tuning_root / "genllava" / "llm")


@pytest.fixture(scope="module")
def collator(tuning_root: Path, llm: LlmStage) -> Collator:
    encoder = EncoderStage.load(tuning_root / "genllava" / "encoder")
    rows = RowMaker(llm.codec, encoder.encoder.num_patches)
    return Collator(rows, llm.template, llm.codec.tokenizer.pad_token_id, encoder.processor, 16, 256)


def encoded(seed: int) -> bytes:
    file = io.BytesIO()
    draw(seed).save(file, "PNG")
    return file.getvalue()


def sample(task: str, said: tuple[Message, ...], num_pictures: int, is_cut: bool = False) -> PreparedSample:
    names = tuple(f"{number}.png" for number in range(num_pictures))
    record = Record("a", task, said, names, is_cut=is_cut)  # type: ignore[arg-type]
    return PreparedSample("000000000", record, "s", "g", None, tuple(encoded(number) for number in range(num_pictures)))


ASK = sample(
    "understand",
    (
        Message("user", (Picture(0), "where is the ball?")),
        Message("assistant", ("left of the cube",)),
        Message("user", ("and the cube?",)),
        Message("assistant", ("it is red",)),
    ),
    1,
)
EDIT = sample("edit", (Message("user", (Picture(0), "make it blue")), Message("assistant", (Picture(1),))), 2)


def learned(llm: LlmStage, labels: torch.Tensor) -> list[str]:
    """Stretches of labels in words, special tokens by name."""
    found: list[list[int]] = [[]]
    for label in labels.tolist():
        if label == IGNORE:
            found.append([])
        else:
            found[-1].append(label)
    texts = [llm.codec.tokenizer.decode(ids, skip_special_tokens=False) for ids in found if ids]
    return [text.strip() for text in texts]


def test_the_assistants_side_is_learned(collator: Collator, llm: LlmStage) -> None:
    batch = collator([(0, ASK), (5, EDIT)])
    assert learned(llm, batch.labels[0]) == ["left of the cube</s>", "it is red</s>"]
    drawing = "".join(llm.template.image_tokens)
    assert [text.replace(" ", "") for text in learned(llm, batch.labels[1])] == [f"{drawing}</s>"]
    assert batch.num_labels == int((batch.labels != IGNORE).sum())
    own = batch.labels != IGNORE
    assert torch.equal(batch.labels[own], batch.ids[own])
    assert (batch.ids == collator.rows.image_id).sum(1).tolist() == [4, 4]


def test_an_answer_that_was_cut_does_not_end(collator: Collator, llm: LlmStage) -> None:
    cut = sample("understand", ASK.record.messages, 1, is_cut=True)
    assert learned(llm, collator([(0, cut)]).labels[0]) == ["left of the cube</s>", "it is red"]


def test_pictures_go_where_they_belong(collator: Collator) -> None:
    batch = collator([(0, ASK), (5, EDIT)])
    assert batch.pixel_values.shape == (2, 3, 32, 32)
    torch.testing.assert_close(batch.pixel_values[0], collator.processor([draw(0)])[0])
    assert batch.target_names == ("5/1",)
    assert batch.targets.shape == (1, 3, 16, 16)
    assert batch.targets.min() >= -1
    assert batch.targets.max() <= 1
    middle = draw(1).crop((12, 0, 84, 72)).resize((16, 16), 3)  # of 96 x 72
    wanted = torch.tensor(list(middle.getdata())).reshape(16, 16, 3).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(batch.targets[0], wanted, atol=0.05, rtol=0)


def test_a_sample_that_teaches_nothing_or_is_too_long_is_named(collator: Collator) -> None:
    nothing = sample("understand", (Message("user", ("hello",)), Message("assistant", ())), 0, is_cut=True)
    with pytest.raises(InvalidArgument, match="record a: no token is trained"):
        collator([(0, nothing)])
    long = sample("understand", (Message("user", ("word " * 300,)), Message("assistant", ("yes",))), 0)
    with pytest.raises(InvalidArgument, match=r"record a: \d+ tokens, 256 allowed"):
        collator([(0, long)])


def test_a_damaged_picture_is_named(collator: Collator) -> None:
    damaged = PreparedSample("000000007", ASK.record, "s", "g", None, (encoded(0)[:60],))
    with pytest.raises(FailedPrecondition, match=r"sample 000000007 \(a\), picture 0"):
        collator([(0, damaged)])


def test_the_catalogue_knows_each_sample(tuning_root: Path, collator: Collator) -> None:
    catalogue = Catalogue(tuning_root / "mix")
    for number in range(len(catalogue)):
        found = catalogue.read(number)
        assert (found.record.task, found.group) == (catalogue.tasks[number], catalogue.groups[number])
        assert catalogue.tokens[number] == found.tokens == collator.num_tokens(found.record)
        assert (catalogue.kinds[number] == "text") == (not found.pictures)
    drawn = catalogue.chosen(("generate", "edit"), ())
    assert {catalogue.groups[number] for number in drawn} == {"generation", "editing"}
    assert catalogue.chosen(("understand",), ("generation",)) == []
    never = catalogue.held_out(3, 0)
    assert never == catalogue.held_out(3, 0) != catalogue.held_out(3, 1)
    with pytest.raises(InvalidArgument, match="held_out is 24, but there are 24 samples"):
        catalogue.held_out(24, 0)


def test_pictures_are_seen_as_in_serving(collator: Collator) -> None:
    """What is transparent is white, in what is looked at and in what is to be drawn."""
    file = io.BytesIO()
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(file, "PNG")
    said = (Message("user", (Picture(0), "make it the same")), Message("assistant", (Picture(1),)))
    edit = replace(sample("edit", said, 2), pictures=(file.getvalue(),) * 2)
    batch = collator([("a", edit)])
    white = collator.processor([Image.new("RGB", (20, 20), "white")])
    assert torch.equal(batch.pixel_values, white)
    assert batch.targets.unique().tolist() == [1.0]
