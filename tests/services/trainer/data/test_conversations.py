"""Labels stand where LLaVA's published training code puts them, for all templates, whatever the tokenizer."""

import re
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from services.trainer.data.conversations import conversation_row, trained_share
from services.trainer.data.folder import MixFolder
from services.trainer.data.reader import ShardReader
from services.trainer.data.records import Record
from services.trainer.data.sources.captions import CaptionsSource
from services.trainer.data.sources.llava import LlavaSource
from services.trainer.data.tokens import IGNORE, Row, RowMaker
from tests.services.trainer.data.published import TOKENIZER, turn
from triptych.errors import InvalidArgument
from triptych.models.text import TextCodec
from triptych.prompts import TEMPLATES, VICUNA_SYSTEM, Message, PromptTemplate

NUM_IMAGE_TOKENS = 36
ENTRY = {
    "id": "000000033471",
    "image": "coco/train2017/000000033471.jpg",
    "conversations": [
        turn("human", "<image>\nWhat are the colors of the bus in the image?"),
        turn("gpt", "The bus in the image is white and red."),
        turn("human", "What feature can be seen on the back of the bus?"),
        turn("gpt", "The back of the bus features an advertisement."),
    ],
}
QUESTIONS = [t["value"].removeprefix("<image>\n") for t in ENTRY["conversations"][::2]]  # type: ignore[index]
ANSWERS = [t["value"] for t in ENTRY["conversations"][1::2]]  # type: ignore[index]


def llava_prompt(template: str) -> str:
    """LLaVA's `conversation.py`: separator styles TWO (vicuna_v1) and LLAMA_2 without system (mistral_instruct). Ours
    has the spaces that tokenizers put in front of texts."""
    pairs = list(zip(QUESTIONS, ANSWERS, strict=True))
    if template == "vicuna_v1":
        return VICUNA_SYSTEM + " " + "".join(f"USER: {q} ASSISTANT: {a}</s>" for q, a in pairs)
    if template == "genllava":
        return " " + VICUNA_SYSTEM + "".join(f" USER: {q} ASSISTANT: {a}</s>" for q, a in pairs)
    return "".join(f"[INST] {q} [/INST] {a} </s>" for q, a in pairs)


def llava_labels(template: str) -> list[str]:
    """Its `preprocess_v1` and `preprocess_llama_2`: each round is split at the assistant's mark, what comes after is
    trained, with the round's end."""
    mark = "[/INST] " if template == "mistral_instruct" else " ASSISTANT: "
    rounds = [part for part in llava_prompt(template).split("</s>") if part]
    return [part.split(mark)[1] + "</s>" for part in rounds]


def llama_like(folder: Path) -> TextCodec:
    """BPE on words that carry their space in front as Llama's and Mistral's do, "_" for a space, bytes for the rest."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    specials = ["<unk>", "<s>", "</s>", "<pad>", "<image>", "[I2T]", "[T2I]", *PromptTemplate().image_tokens]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator([*QUESTIONS, *ANSWERS, VICUNA_SYSTEM, "USER: ASSISTANT: [INST] [/INST]"], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=specials[4:],
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(str(folder))
    return TextCodec.load(folder)


@pytest.fixture(scope="module", params=["byte-level", "llama-like"])
def codec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TextCodec:
    if request.param == "byte-level":
        return TextCodec.load(TOKENIZER)
    return llama_like(tmp_path_factory.mktemp("llama"))


def llava_record() -> Record:
    values = {"name": "a", "group": "g", "path": "a.json", "images": "images"}
    return LlavaSource(LlavaSource.Config.model_validate(values), 0).record(ENTRY, 0)


def runs(row: Row) -> list[list[int]]:
    """Stretches of labels that are not ignored."""
    found: list[list[int]] = [[]]
    for label in row.labels:
        if label != IGNORE:
            found[-1].append(label)
        elif found[-1]:
            found.append([])
    return [run for run in found if run]


def spell(codec: TextCodec, ids: list[int]) -> str:
    """Text with special tokens in it, one space where there are several."""
    tokens = codec.tokenizer.decode(ids, skip_special_tokens=False)
    return re.sub(r"\s+", " ", str(tokens)).strip()


@pytest.mark.parametrize("template", sorted(TEMPLATES))
def test_labels_are_llavas(codec: TextCodec, template: str) -> None:
    row = conversation_row(llava_record(), TEMPLATES[template], RowMaker(codec, NUM_IMAGE_TOKENS), 4096)
    assert [spell(codec, run).replace(" </s>", "</s>") for run in runs(row)] == [
        label.replace(" </s>", "</s>") for label in llava_labels(template)
    ]
    eos = codec.special_id("</s>")
    assert all(run[-1] == eos and run.count(eos) == 1 for run in runs(row))


@pytest.mark.parametrize("template", sorted(TEMPLATES))
def test_the_text_is_llavas(template: str) -> None:
    """Its prompt, character by character, but for what is ours: <s>, the task token, where the picture stands. LLaVA
    writes a space before Mistral's </s>; Mistral itself does not."""
    made = TEMPLATES[template]
    segments = llava_record().segments(made)
    text = "".join(getattr(s, "text", "") + ("</s>" if getattr(s, "token", "") == "</s>" else "") for s in segments)
    assert text == llava_prompt(template).replace(" </s>", "</s>")


@pytest.mark.parametrize("template", sorted(TEMPLATES))
def test_pictures_prompts_and_task_tokens_are_not_trained(codec: TextCodec, template: str) -> None:
    row = conversation_row(llava_record(), TEMPLATES[template], RowMaker(codec, NUM_IMAGE_TOKENS), 4096)
    image, task = codec.special_id("<image>"), codec.special_id("[I2T]")
    assert row.ids[:2] == [codec.special_id("<s>"), task]
    assert row.ids[2 : 2 + NUM_IMAGE_TOKENS] == [image] * NUM_IMAGE_TOKENS
    assert not {image, task, codec.special_id("<s>")} & set(row.labels)
    assert all(label in (IGNORE, token) for token, label in zip(row.ids, row.labels, strict=True))


@pytest.mark.parametrize("template", sorted(TEMPLATES))
def test_a_drawing_is_trained_whole(codec: TextCodec, template: str) -> None:
    values = {"name": "c", "group": "g", "path": "a.json", "images": "images"}
    source = CaptionsSource(CaptionsSource.Config.model_validate(values), 0)
    record = source.record({"image": "a.jpg", "caption": "a white bus"}, 0)
    row = conversation_row(record, TEMPLATES[template], RowMaker(codec, NUM_IMAGE_TOKENS), 4096)
    drawing = [codec.special_id(token) for token in (*TEMPLATES[template].image_tokens, "</s>")]
    assert runs(row) == [drawing]
    assert row.ids[1] == codec.special_id("[T2I]")


def test_every_prepared_sample(made: MixFolder) -> None:
    """As long as was counted when it was prepared; something to learn in each; a cut one does not end."""
    codec = TextCodec.load(TOKENIZER)
    rows, eos = RowMaker(codec, NUM_IMAGE_TOKENS), codec.special_id("</s>")
    for _, sample in ShardReader(made.out).stream(stop=40):
        row = conversation_row(sample.record, TEMPLATES["vicuna_v1"], rows, 400)
        assert len(row.ids) == sample.tokens
        assert 0 < trained_share(row) < 1
        assert (row.ids[-1] == eos) == (not sample.record.is_cut)
        num_answers = sum(m.role == "assistant" for m in sample.record.messages)
        assert len(runs(row)) == num_answers


def test_nothing_is_masked_in_silence(codec: TextCodec) -> None:
    rows, template = RowMaker(codec, NUM_IMAGE_TOKENS), TEMPLATES["vicuna_v1"]
    length = len(conversation_row(llava_record(), template, rows, 4096).ids)
    assert conversation_row(llava_record(), template, rows, length)
    with pytest.raises(InvalidArgument, match=f"record 000000033471: {length} tokens, {length - 1} allowed"):
        conversation_row(llava_record(), template, rows, length - 1)
    unanswered = Record("u", "understand", (Message("user", ("hello?",)),))
    with pytest.raises(InvalidArgument, match="record u: no token is trained"):
        conversation_row(unanswered, template, rows, 4096)
