"""Parquet as it is published: pictures within or beside, in one file or many, and what may be wrong with a row."""

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from pydantic import ValidationError

from services.trainer.data.folder import MixFolder
from services.trainer.data.mix import Mix
from services.trainer.data.reader import ShardReader
from services.trainer.data.records import BadRecord, Record
from services.trainer.data.sources.parquet import REQUESTS, ParquetSource
from tests.services.trainer.data.conftest import make_mix
from tests.services.trainer.data.published import save, say, turn
from triptych.errors import InvalidArgument
from triptych.prompts import Message, Picture

# The types that `datasets` gives its Image and list features.
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
TURNS = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))
QUESTIONS = {"question": "question", "answer": "answer"}


def write(path: Path, rows: list[dict[str, Any]], **types: pa.DataType) -> Path:
    """Two rows a row group; `types` are the columns and what they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema(list(types.items()))
    parquet.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=2)
    return path


def source(path: Path, **values: Any) -> ParquetSource:
    made = ParquetSource.Config.model_validate({"name": "p", "group": "g", "path": path, **values})
    return ParquetSource(made, 0, path.parent / "work")


def records(made: ParquetSource) -> list[Record]:
    made.check()
    return [made.record(entry, i) for i, entry in enumerate(made.entries())]


def reason(made: ParquetSource, entry: Any) -> str:
    with pytest.raises(BadRecord) as caught:
        made.record(entry, 0)
    return caught.value.reason


def test_conversations_with_the_pictures_within(tmp_path: Path) -> None:
    data = save(tmp_path / "one.png", 1).read_bytes()
    said = [turn("human", "look: <image>"), turn("gpt", "a river")]
    unplaced = [turn("human", "what?"), turn("gpt", "a stone")]
    both = [turn("human", "<image> or <image>?"), turn("gpt", "both")]
    other = save(tmp_path / "two.png", 2).read_bytes()
    rows = [
        {"id": "a", "image": [{"bytes": data, "path": "one.png"}], "conversations": said},
        {"id": "b", "image": [{"bytes": data, "path": None}], "conversations": unplaced},
        {"id": "c", "image": [{"bytes": data}, {"bytes": other}], "conversations": both},
        {"id": None, "image": None, "conversations": unplaced},
    ]
    path = write(tmp_path / "p.parquet", rows, id=pa.string(), image=pa.list_(IMAGE), conversations=TURNS)
    assert parquet.ParquetFile(path).num_row_groups == 2
    made = source(path, conversations="conversations")
    one, two, three, four = records(made)
    digests = [hashlib.sha256(picture).hexdigest() for picture in (data, other)]
    names = [f"{digest[:2]}/{digest}" for digest in digests]
    assert [r.id for r in (one, two, three, four)] == ["a", "b", "c", "3"]
    assert [r.pictures for r in (one, two, three, four)] == [(names[0],), (names[0],), tuple(names), ()]
    assert one.messages == (Message("user", ("look:", Picture(0))), Message("assistant", ("a river",)))
    assert two.messages[0] == Message("user", (Picture(0), "what?"))
    assert three.messages[0].contents == (Picture(0), "or", Picture(1), "?")
    assert four.messages[0] == Message("user", ("what?",))
    assert [(made.pictures / name).read_bytes() for name in names] == [data, other]
    assert sorted(p.name for p in made.pictures.rglob("*") if p.is_file()) == sorted(digests)


def test_conversations_as_json(tmp_path: Path) -> None:
    rows = [{"talk": json.dumps([turn("human", "q"), turn("gpt", "a")])}]
    made = source(write(tmp_path / "p.parquet", rows, talk=pa.string()), picture="", conversations="talk")
    assert records(made)[0].messages == (Message("user", ("q",)), Message("assistant", ("a",)))
    assert reason(made, {"talk": "[{"}) == "malformed"
    assert reason(made, {"talk": "[]"}) == "no conversation"


def test_questions_in_shards_with_names_beside(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for shard in range(3):
        rows = [
            {"image": {"bytes": None, "path": f"{shard}{i}.png"}, "question": f"q{shard}{i}", "answer": ["yes", "no"]}
            for i in range(3)
        ]
        name = f"train-{shard:05d}-of-00003.parquet"
        write(folder / name, rows, image=IMAGE, question=pa.string(), answer=pa.list_(pa.string()))
    write(folder / "test-00000-of-00001.parquet", [], image=IMAGE)
    made = source(folder, files="train-*.parquet", images=tmp_path, **QUESTIONS)
    found = records(made)
    assert [r.id for r in found] == [str(i) for i in range(9)]
    assert [r.pictures[0] for r in found] == [f"{s}{i}.png" for s in range(3) for i in range(3)]
    assert found[4].messages == (Message("user", (Picture(0), "q11")), Message("assistant", ("yes",)))
    assert not (tmp_path / "work").exists()


def test_captions_with_links(tmp_path: Path) -> None:
    link = "https://cdn.example.org/attachments/1%202/a.png"
    row = {"link": link, "caption": " A lamp. ", "message_id": 7, "timestamp": "2023-11-06"}
    types = {"link": pa.string(), "caption": pa.string(), "message_id": pa.int64(), "timestamp": pa.string()}
    path = write(tmp_path / "p.parquet", [row, {**row, "message_id": 8, "link": f"{link}?ex=1"}], **types)
    made = source(path, images=tmp_path, picture="link", caption="caption", id="message_id")
    first, second = records(made)
    assert (first.id, second.id) == ("7", "8")
    assert first.pictures == ("cdn.example.org/attachments/1 2/a.png",)
    assert second.pictures == ("cdn.example.org/attachments/1 2/a.png?ex=1",)
    user, assistant = first.messages
    assert user.contents[0] == Picture(0)
    assert user.contents[1] in REQUESTS
    assert first.added == user.contents[1:]
    assert assistant.contents == ("A lamp.",)
    assert len({made.record({"link": link, "caption": "x"}, i).added for i in range(40)}) > 3


def test_bad_rows(tmp_path: Path) -> None:
    types = {"image": IMAGE, "question": pa.string(), "answer": pa.string()}
    within = source(write(tmp_path / "p.parquet", [], **types), **QUESTIONS)
    good: dict[str, Any] = {"image": {"bytes": b"1", "path": "1"}, "question": "q", "answer": "a"}
    assert reason(within, {**good, "image": None}) == "picture missing"
    assert reason(within, {**good, "image": {"bytes": None, "path": "1"}}) == "picture missing"
    assert reason(within, {**good, "question": None}) == "malformed"
    assert reason(within, {**good, "answer": None}) == "malformed"
    assert reason(within, {**good, "answer": " "}) == "empty text"
    assert reason(within, "'utf-8' codec can't decode") == "malformed"
    assert not (tmp_path / "work").exists()
    beside = source(tmp_path / "p.parquet", images=tmp_path, **QUESTIONS)
    assert reason(beside, {**good, "image": b"1"}) == "picture missing"
    assert reason(beside, {**good, "image": "http://[half"}) == "picture missing"


def test_text_that_is_no_utf8_is_one_bad_row(tmp_path: Path) -> None:
    talk = pa.array([b"ok", b"\xff", b"fine"], pa.binary()).view(pa.string())
    table = pa.table({"question": talk, "answer": ["a", "b", "c"]})
    parquet.write_table(table, tmp_path / "p.parquet")
    made = source(tmp_path / "p.parquet", picture="", **QUESTIONS)
    entries = list(made.entries())
    assert [reason(made, e) if isinstance(e, str) else e["question"] for e in entries] == ["ok", "malformed", "fine"]


def test_files_that_are_none(tmp_path: Path) -> None:
    types = {"image": IMAGE, "question": pa.string()}
    path = write(tmp_path / "p.parquet", [], **types)
    with pytest.raises(InvalidArgument, match=r"p\.parquet: no column answer; there are image, question"):
        source(path, **QUESTIONS).check()
    path = write(path, [], **types, answer=pa.string())
    with pytest.raises(InvalidArgument, match="is empty"):
        source(path, **QUESTIONS).check()
    with pytest.raises(InvalidArgument, match="nowhere is no folder"):
        source(path, images=tmp_path / "nowhere", **QUESTIONS).check()
    with pytest.raises(InvalidArgument, match="does not exist"):
        source(tmp_path / "none.parquet", **QUESTIONS).check()
    (tmp_path / "folder").mkdir()
    with pytest.raises(InvalidArgument, match=r"no file is named \*\.parquet"):
        source(tmp_path / "folder", **QUESTIONS).check()
    for pattern in ("", "/data/*.parquet"):
        with pytest.raises(InvalidArgument, match="files = '"):
            source(tmp_path / "folder", files=pattern, **QUESTIONS).check()
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InvalidArgument, match=r"p\.parquet: "):
        source(path, **QUESTIONS).check()


@pytest.mark.parametrize(
    "columns",
    [{}, {"question": "q"}, {"caption": "c", "answer": "a"}, {"caption": "c", "picture": ""}],
    ids=["none", "no answer", "two forms", "nothing to describe"],
)
def test_one_form(tmp_path: Path, columns: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="column"):
        source(tmp_path, **columns)


def test_a_mix(tmp_path: Path) -> None:
    """From two files to shards: the pictures are packed as they stood in the rows, bad ones are counted."""
    pictures = [save(tmp_path / f"{i}.jpg", i).read_bytes() for i in range(5)]
    rows: list[dict[str, Any]] = []
    for index, data in enumerate([*pictures, b"no picture"]):
        question, answer = say(random.Random(f"question/{index}")), say(random.Random(f"answer/{index}"))
        rows.append({"image": {"bytes": data}, "question": question, "answer": answer})
    rows.append({**rows[0], "image": None})
    types = {"image": IMAGE, "question": pa.string(), "answer": pa.string()}
    write(tmp_path / "data/train-0.parquet", rows[:4], **types)
    write(tmp_path / "data/train-1.parquet", rows[4:], **types)
    config = {"type": "parquet", "name": "p", "group": "g", "path": "data", **QUESTIONS}
    mix = Mix.model_validate({"name": "m", "shares": {"g": 100}, "sources": [config], "records_per_piece": 2})
    out = tmp_path / "out"
    MixFolder.begin(mix, out, tmp_path)
    make_mix(out)
    reader = ShardReader(out)
    samples = [reader.read(0, place) for place in range(5)]
    assert sorted(sample.pictures[0] for sample in samples) == sorted(pictures)
    assert reader.index["counts"]["p"]["bad"] == {"picture missing": 1, "picture unreadable": 1}
