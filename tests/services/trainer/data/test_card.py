"""The card says what is in the mix, shows it, and needs nothing beside it."""

import base64
import io
import re

from PIL import Image

from services.trainer.data.card import _render, _short
from services.trainer.data.folder import MixFolder


def test_counts_shares_and_reasons(made: MixFolder) -> None:
    text = re.sub(r"\s+", " ", (made.out / "card.html").read_text(encoding="utf-8"))
    assert "40 samples in 6 shards" in text
    assert "<tr><td>editing</td><td>20.00 %</td><td>20.00 %</td> <td>8</td></tr>" in text
    assert "<tr><td>llava</td><td>picture unreadable</td><td>1</td></tr>" in text
    assert (
        "<tr><td>llava</td><td>understanding</td><td>19</td> <td>2</td><td>1</td> <td>16</td><td>11</td></tr>" in text
    )
    assert all(f"<h3>{name}</h3>" in text for name in made.plan_counts())
    assert text.count('class="sample"') == 15


def test_self_contained_with_pictures(made: MixFolder) -> None:
    text = (made.out / "card.html").read_text(encoding="utf-8")
    sources = re.findall(r'src="([^"]*)"', text)
    assert len(sources) >= 12
    for source in sources:
        head, _, data = source.partition(",")
        assert head == "data:image/jpeg;base64"
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (96, 72)
    assert not re.search(r"https?://|<script|<link", text)
    assert str(made.out.parent) not in text


def test_what_data_says_is_never_markup() -> None:
    evil = "<script>alert('x')</script>"
    message = {"role": "user", "parts": [{"picture": "", "text": evil}]}
    sample = {"key": evil, "id": evil, "task": "understand", "is_cut": True, "messages": [message]}
    index = {"name": evil, "num_samples": 1, "shards": [], "seed": 0, "digest": "d", "counts": {}, "groups": {}}
    text = _render(index=index, num_bytes=0, groups=[], bad=[], tasks=[], shown={evil: [sample]})
    assert "<script" not in text
    assert "cut here" in text


def test_long_texts_are_shortened() -> None:
    assert _short("a" * 1200) == "a" * 1200
    assert _short("a" * 5000) == "a" * 1200 + " ..."
