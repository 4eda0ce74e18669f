"""The report: one HTML file with figures, intervals, and what was right and wrong, that needs nothing beside it."""

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from services.trainer.evaluators.base import Example
from services.trainer.evaluators.figures import Figure, Share
from services.trainer.evaluators.panel import Result

TEMPLATE = "page.html.j2"


def render_page(about: dict[str, Any], results: dict[str, Result]) -> str:
    source = Path(__file__).with_name(TEMPLATE).read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined)  # what a model says is text, never markup
    return environment.from_string(source).render(
        name=next(iter(about["checkpoint"].values()))["name"],
        about=about,
        sections=[_section(name, result) for name, result in results.items()],
    )


def _section(name: str, result: Result) -> dict[str, Any]:
    return {
        "name": name,
        "title": result.title,
        "num_items": result.num_items,
        "seconds": result.seconds,
        "rows": [_row(key, figure) for key, figure in result.figures.items()],
        "sides": [
            {"name": side, "examples": [_example(e) for e in examples], "of": of}
            for side, examples, of in result.gallery.sides
            if examples
        ],
    }


def _row(name: str, figure: Figure) -> dict[str, Any]:
    """`bar`: value and ends of the interval in percent, for figures between 0 and 1."""
    low, high = figure.interval or (figure.value, figure.value)
    ends = [100 * min(max(number, 0.0), 1.0) for number in (figure.value, low, high)]
    return {
        "name": name,
        "is_part": ": " in name,
        "value": f"{figure.value:.3f}",
        "count": f"{figure.right:,} of {figure.of:,}" if isinstance(figure, Share) else f"mean of {figure.of:,}",
        "interval": f"{low:z.3f} to {high:z.3f}" if figure.interval else "",
        "bar": {"value": ends[0], "low": ends[1], "width": ends[2] - ends[1]},
    }


def _example(example: Example) -> list[dict[str, str]]:
    return [
        {"caption": caption, "text": shown, "picture": ""}
        if isinstance(shown, str)
        else {"caption": caption, "text": "", "picture": base64.b64encode(shown).decode()}
        for caption, shown in example.parts
    ]


def to_text(figure: Figure) -> tuple[str, str, str]:
    """Count, value and interval, for a table in a terminal."""
    row = _row("", figure)
    return row["count"], row["value"], row["interval"]
