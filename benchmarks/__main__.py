"""What the four processes cost: `python -m benchmarks` times the same requests through them and through the same model
in this one process, turn about in one run, so that both see the same machine in the same mood.

Writes pipeline_overhead.json and .png; `ratio` is the median over the pairs of (four processes / one).
"""

import argparse
import io
import json
import os
import random
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.circumstances import ROOT, circumstances
from benchmarks.plot import plot
from services.trainer.data.blocks import questions
from services.trainer.data.blocks.language import draw_request
from services.trainer.data.blocks.render import render
from services.trainer.data.blocks.world import sample_scene
from triptych.card import read_card
from triptych.client import Client
from triptych.errors import TriptychError
from triptych.models.unified import UnifiedModel
from triptych.prompts import Message, Picture
from triptych.requests import Params
from triptych.up import LocalSystem

LIBRARIES = ("torch", "transformers", "diffusers", "grpcio", "numpy")
NUM_WARM_UPS = 2
Pair = tuple[Callable[[], object], Callable[[], object]]  # through the processes, in this one


def ask_pair(client: Client, model: UnifiedModel, max_tokens: int, index: int) -> Pair:
    """A question about a picture that no cache has seen."""
    rng = random.Random(f"benchmark/ask/{index}")
    scene = sample_scene(rng, "held_out")
    picture, text = Image.fromarray(render(scene, index)), questions.ask(scene, rng).text
    message = Message("user", (Picture(0), text))
    return (
        lambda: client.ask(picture, text, Params(max_tokens=max_tokens)).text,
        lambda: model.respond([message], ["understand"], [picture], max_tokens=max_tokens).text,
    )


def draw_pair(client: Client, model: UnifiedModel, steps: int, guidance: float, index: int) -> Pair:
    """A picture from a text."""
    rng = random.Random(f"benchmark/draw/{index}")
    text = draw_request(sample_scene(rng, "held_out"), rng)

    def served() -> list[Any]:
        params = Params(seed=index, steps=steps, guidance=guidance, max_tokens=8)
        reply = client.chat().send(text, (), "generate", params)
        return [np.asarray(Image.open(io.BytesIO(drawing.png))).tolist() for drawing in reply.images]

    def direct() -> list[Any]:
        bounds = {"num_inference_steps": steps, "guidance_scale": guidance, "max_tokens": 8}
        reply = model.respond([Message("user", (text,))], ["generate"], [], seed=index, **bounds)  # type: ignore[arg-type]
        return [picture.tolist() for picture in reply.pictures]

    return served, direct


def measure(pairs: list[Pair]) -> dict[str, Any]:
    """Milliseconds of each, whoever goes first changing with every pair; the first pairs only warm up."""
    times: list[tuple[float, float]] = []
    num_equal = 0
    for number, pair in enumerate(pairs):
        spent, results = [0.0, 0.0], [None, None]
        for side in (0, 1) if number % 2 else (1, 0):
            started = time.perf_counter()
            results[side] = pair[side]()  # type: ignore[call-overload]
            spent[side] = 1000 * (time.perf_counter() - started)
        if number >= NUM_WARM_UPS:
            times.append((spent[0], spent[1]))
            num_equal += results[0] == results[1]
    served, direct = zip(*times, strict=True)
    return {
        "num_pairs": len(times),
        "num_equal_results": num_equal,
        "four_processes_ms": {"median": median(served), "all": served},
        "one_process_ms": {"median": median(direct), "all": direct},
        "ratio": median(a / b for a, b in times),
        "overhead_ms": median(a - b for a, b in times),
    }


def digests(checkpoint: Path) -> dict[str, str]:
    """Of its components, by kind."""
    return {kind: read_card(checkpoint / kind).digest for kind in ("encoder", "llm", "decoder")}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "checkpoints" / "genllava-tiny", help="what to run")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results", help="folder for the figures")
    parser.add_argument("--num-questions", type=int, default=40, help="pairs that count")
    parser.add_argument("--num-drawings", type=int, default=10, help="pairs that count")
    parser.add_argument("--steps", type=int, default=25, help="denoising steps of a drawing")
    parser.add_argument("--num-threads", type=int, default=os.cpu_count(), help="of each forward pass, on both sides")
    args = parser.parse_args()
    torch.set_num_threads(args.num_threads)
    os.environ.update({f"{stage}_NUM_THREADS": str(args.num_threads) for stage in ("ENCODER", "LLM", "DECODER")})
    try:
        with LocalSystem(args.checkpoint, device="cpu") as system, Client(system.address) as client:
            about = circumstances(*LIBRARIES, checkpoint=digests(args.checkpoint))
            model = UnifiedModel.load(args.checkpoint)
            guidance = read_card(args.checkpoint / "decoder").facts["default_guidance_scale"]
            ask, draw = partial(ask_pair, client, model, 32), partial(draw_pair, client, model, args.steps, guidance)
            results = {
                "ask": measure([ask(i) for i in range(args.num_questions + NUM_WARM_UPS)]),
                f"draw, {args.steps} steps": measure([draw(i) for i in range(args.num_drawings + NUM_WARM_UPS)]),
            }
    except TriptychError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    args.output.mkdir(parents=True, exist_ok=True)
    more = {"num_threads": args.num_threads, "load_average_after": os.getloadavg(), "results": results}
    (args.output / "pipeline_overhead.json").write_text(json.dumps(about | more, indent=2) + "\n")
    plot(results, args.output / "pipeline_overhead.png")
    for name, result in results.items():
        equal = f"{result['num_equal_results']} of {result['num_pairs']} results equal"
        print(f"{name}: {result['ratio']:.2f} times, {result['overhead_ms']:+.1f} ms; {equal}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
