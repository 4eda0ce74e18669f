"""Figures as a picture."""

from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont


def plot(results: dict[str, dict[str, Any]], path: Path) -> None:
    """Bars of the medians, and a dot for every request."""
    width, left, sides = 900, 230, {"four_processes_ms": "#3b6fb6", "one_process_ms": "#9aa5b1"}
    sheet = Image.new("RGB", (width, 150 * len(results)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for row, (name, result) in enumerate(results.items()):
        top = 150 * row
        scale = (width - left - 30) / max(max(result[side]["all"]) for side in sides)
        pen.text((12, top + 12), f"{name}: {result['ratio']:.2f} times, {result['overhead_ms']:+.1f} ms", "black", font)
        for y, (side, colour) in zip((top + 44, top + 90), sides.items(), strict=True):
            middle = result[side]["median"]
            pen.rectangle((left, y, left + middle * scale, y + 32), colour)
            for ms in result[side]["all"]:
                pen.ellipse((left - 2 + ms * scale, y + 14, left + 2 + ms * scale, y + 18), "#222222")
            pen.text((12, y + 8), f"{side[:-3].replace('_', ' ')}: {middle:.1f} ms", "black", font)
    sheet.save(path)


def plot_rates(records_per_s: dict[str, float], path: Path) -> None:
    """A bar for each way."""
    width, left = 900, 230
    sheet = Image.new("RGB", (width, 24 + 52 * len(records_per_s)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    scale = (width - left - 30) / max(records_per_s.values())
    for row, (name, rate) in enumerate(records_per_s.items()):
        y = 12 + 52 * row
        pen.rectangle((left, y, left + rate * scale, y + 32), "#3b6fb6")
        pen.text((12, y + 8), f"{name}: {rate:.0f} records/s", "black", font)
    sheet.save(path)


def plot_faults(results: dict[str, dict[str, Any]], path: Path) -> None:
    """A row for each fault: bars of median and 95th percentile, failures and detection beside them."""
    width, left, row_height = 1100, 330, 44
    sheet = Image.new("RGB", (width, 24 + row_height * len(results)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    scale = (width - left - 330) / max(result["ms"]["p95"] for result in results.values())
    for row, (name, result) in enumerate(results.items()):
        y = 12 + row_height * row
        pen.text((12, y + 8), name, "black", font)
        pen.rectangle((left, y, left + result["ms"]["p95"] * scale, y + 30), "#9aa5b1")
        pen.rectangle((left, y + 6, left + result["ms"]["p50"] * scale, y + 24), "#3b6fb6")
        told = f"{result['num_requests']} requests, {result['num_failures']} failed"
        if result["detected_ms"] is not None:
            told += f", noticed in {result['detected_ms']:.0f} ms"
        pen.text((left + result["ms"]["p95"] * scale + 8, y + 8), told, "black", font)
    sheet.save(path)
