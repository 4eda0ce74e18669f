"""What preparing data costs: `python -m benchmarks.prepare` makes an instruction set as LLaVA's is published, prepares
it with one worker and with two, and lets a script such as people write for one set do it too.

The script reads the JSON, opens every picture to verify it, and packs the records in their order by Python's `tarfile`.
It looks for no near-duplicates, mixes and shuffles nothing, cannot go on when stopped, and leaves no index to read by.
Writes prepare.json and .png; rates are of whole runs, starting the workers included; a ratio is script / prepare.
"""

import argparse
import io
import json
import os
import random
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.circumstances import ROOT, circumstances
from benchmarks.plot import plot_rates
from services.trainer.data.mix import Mix
from services.trainer.prepare import prepare

LIBRARIES = ("numpy", "pillow")
NUM_WORKERS = (1, 2)
SIZE = (192, 144)
NUM_WORDS = 24  # a message
WORDS = [a + b for a in ("ri", "sto", "la", "win", "gar", "en", "pa", "sil") for b in ("ver", "ne", "mp", "dow", "den")]
SAMPLES_PER_TAR = 1000


def write_source(root: Path, num_records: int, num_pictures: int) -> Mix:
    """`llava.json` and `images/`: two turns a record, pictures asked about several times."""
    (root / "images").mkdir()
    for index in range(num_pictures):
        noise = np.random.default_rng(index).integers(0, 256, (9, 12, 3), dtype=np.uint8)
        picture = Image.fromarray(noise).resize(SIZE, Image.Resampling.BICUBIC)
        picture.save(root / "images" / f"{index:06d}.jpg", quality=85)
    rng = random.Random(0)
    entries = [_entry(index, index % num_pictures, rng) for index in range(num_records)]
    (root / "llava.json").write_text(json.dumps(entries))
    source = {"type": "llava", "name": "llava", "group": "all", "path": "llava.json", "images": "images"}
    return Mix.model_validate({"name": "benchmark", "shares": {"all": 100}, "sources": [source]})


def _entry(index: int, picture: int, rng: random.Random) -> dict[str, Any]:
    texts = [" ".join(rng.choice(WORDS) for _ in range(NUM_WORDS)) for _ in range(4)]
    texts[0] = f"<image>\n{texts[0]}"
    said = [{"from": ("human", "gpt")[turn % 2], "value": text} for turn, text in enumerate(texts)]
    return {"id": f"{index:07d}", "image": f"{picture:06d}.jpg", "conversations": said}


def plain_script(root: Path, out: Path) -> None:
    """The baseline: one process, record by record."""
    out.mkdir()
    entries = json.loads((root / "llava.json").read_text())
    for start in range(0, len(entries), SAMPLES_PER_TAR):
        with tarfile.open(out / f"{start // SAMPLES_PER_TAR:05d}.tar", "w") as tar:
            for index, entry in enumerate(entries[start : start + SAMPLES_PER_TAR], start):
                data = (root / "images" / entry["image"]).read_bytes()
                with Image.open(io.BytesIO(data)) as picture:
                    picture.verify()
                for suffix, content in (("json", json.dumps(entry).encode()), ("jpg", data)):
                    member = tarfile.TarInfo(f"{index:09d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def measure(root: Path, mix: Mix, num_rounds: int) -> dict[str, list[float]]:
    """Seconds of every run, each way once a round, so that all see the same machine in the same mood."""
    ways: dict[str, Callable[[Path], object]] = {
        f"{n} worker{'s' * (n > 1)}": lambda out, n=n: prepare(mix, out, n, root)  # type: ignore[misc]
        for n in NUM_WORKERS
    }
    ways["plain script"] = lambda out: plain_script(root, out)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(num_rounds):
        for name, run in ways.items():
            started = time.perf_counter()
            run(root / f"{name} {number}")
            seconds[name].append(time.perf_counter() - started)
    return seconds


def figures(seconds: dict[str, list[float]], num_records: int, num_bytes: int) -> dict[str, dict[str, Any]]:
    """`num_bytes`: of pictures and texts as each record has them, which is what goes into the tar files."""
    script_s = seconds["plain script"]
    return {
        name: {
            "seconds": taken,
            "records_per_s": num_records / median(taken),
            "megabytes_per_s": num_bytes / 1e6 / median(taken),
            "ratio": median(script / own for script, own in zip(script_s, taken, strict=True)),
        }
        for name, taken in seconds.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prepare", description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results", help="folder for the figures")
    parser.add_argument("--num-records", type=int, default=20_000, help="conversations")
    parser.add_argument("--num-pictures", type=int, default=5_000, help="that they are about")
    parser.add_argument("--num-rounds", type=int, default=1, help="runs of each that count")
    args = parser.parse_args()
    about = circumstances(*LIBRARIES)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        mix = write_source(root, args.num_records, args.num_pictures)
        seconds = measure(root, mix, args.num_rounds)
        num_bytes = sum(path.stat().st_size for path in (root / "plain script 0").iterdir())
    results = figures(seconds, args.num_records, num_bytes)
    args.output.mkdir(parents=True, exist_ok=True)
    sizes = {"num_records": args.num_records, "num_pictures": args.num_pictures, "num_bytes": num_bytes}
    more = {**sizes, "load_average_after": os.getloadavg(), "results": results}
    (args.output / "prepare.json").write_text(json.dumps(about | more, indent=2) + "\n")
    plot_rates({name: result["records_per_s"] for name, result in results.items()}, args.output / "prepare.png")
    for name, r in results.items():
        print(f"{name}: {r['records_per_s']:.0f} records/s, {r['megabytes_per_s']:.1f} MB/s, ratio {r['ratio']:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
