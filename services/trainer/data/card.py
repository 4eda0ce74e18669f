"""The card of a mix: one HTML file that shows what is in it, pictures included, and needs nothing beside it."""

import base64
import io
from collections import Counter
from pathlib import Path
from statistics import median_low
from typing import Any

from jinja2 import Environment, StrictUndefined
from PIL import Image

from services.trainer.data.files import PARTIAL, read_json, write_atomic
from services.trainer.data.folder import MixFolder
from services.trainer.data.mix import PERCENT
from services.trainer.data.reader import PreparedSample, ShardReader
from triptych.prompts import Message, Picture
from triptych.rgb import as_rgb

TEMPLATE = "card.html.j2"
NUM_SHOWN = 3  # samples of each source
THUMBNAIL = (192, 192)
MAX_CHARS = 1200


def write_card(out: Path | str) -> None:
    """Last step: writes `card.html`. Needs the index.

    Clears away what killed steps left half-written: by now nothing is being written.
    """
    folder = MixFolder(out)
    reader = ShardReader(folder.out)
    index = reader.index
    tokens, shown = _walk(reader)
    text = _render(
        index=index,
        num_bytes=sum(shard["num_bytes"] for shard in index["shards"]),
        groups=_groups(index),
        bad=[(name, *pair) for name, count in index["counts"].items() for pair in count["bad"].items()],
        tasks=[_task(name, counted) for name, counted in sorted(tokens.items())],
        shown=shown,
    )
    write_atomic(folder.card, text.encode("utf-8", "replace"))
    for left in folder.out.rglob(f".*{PARTIAL}"):
        left.unlink(missing_ok=True)


def _render(**values: Any) -> str:
    source = Path(__file__).with_name(TEMPLATE).read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined)  # what data says is text, never markup
    return environment.from_string(source).render(**values)


def _walk(reader: ShardReader) -> tuple[dict[str, list[int | None]], dict[str, list[dict[str, Any]]]]:
    """Tokens of every sample by task, and the first samples of every source."""
    tokens: dict[str, list[int | None]] = {}
    shown: dict[str, list[dict[str, Any]]] = {name: [] for name in reader.index["counts"]}
    for shard, about in enumerate(reader.index["shards"]):
        contents = read_json((reader.folder / about["file"]).with_suffix(".json"))
        for place, row in enumerate(contents["samples"]):
            tokens.setdefault(row["task"], []).append(row["tokens"])
            if len(shown[row["source"]]) < NUM_SHOWN:
                shown[row["source"]].append(_sample(reader.read(shard, place)))
    return tokens, {name: samples for name, samples in shown.items() if samples}


def _groups(index: dict[str, Any]) -> list[dict[str, Any]]:
    numbers: Counter[str] = Counter()
    for name, count in index["counts"].items():
        numbers[index["groups"][name]] += count["in_mix"]
    total = index["num_samples"]
    return [
        {"name": name, "wanted": wanted, "num_samples": numbers[name], "share": PERCENT * numbers[name] / total}
        for name, wanted in index["shares"].items()
    ]


def _task(name: str, tokens: list[int | None]) -> dict[str, Any]:
    counted = [number for number in tokens if number is not None]
    most = {"median": median_low(counted), "most": max(counted)} if counted else {"median": "-", "most": "-"}
    return {"name": name, "num_samples": len(tokens), **most}


def _sample(sample: PreparedSample) -> dict[str, Any]:
    record = sample.record
    thumbnails = [_thumbnail(data) for data in sample.pictures]
    messages = [_message(message, thumbnails) for message in record.messages]
    return {"key": sample.key, "id": record.id, "task": record.task, "is_cut": record.is_cut, "messages": messages}


def _message(message: Message, thumbnails: list[str]) -> dict[str, Any]:
    parts = [
        {"picture": thumbnails[c.index], "text": ""} if isinstance(c, Picture) else {"picture": "", "text": _short(c)}
        for c in message.contents
    ]
    return {"role": message.role, "parts": parts}


def _short(text: str) -> str:
    return text if len(text) <= MAX_CHARS else text[:MAX_CHARS] + " ..."


def _thumbnail(data: bytes) -> str:
    """Base64 of a JPEG, as models see the picture."""
    image = as_rgb(Image.open(io.BytesIO(data)))
    image.thumbnail(THUMBNAIL)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode()
