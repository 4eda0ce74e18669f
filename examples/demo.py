"""What `make demo` shows: encoder, LLM, decoder and orchestrator start as four processes, then answer questions, draw,
edit and hold a conversation, all through the orchestrator's API. Every answer is checked and shown as it is, right or
wrong: the pictures come from the Blocks world, whose scenes we know, and whose reader finds blocks in any picture.

No scene here was ever trained on: each holds a combination of shape, colour and place that training leaves out.
"""

import argparse
import io
import random
import sys
import textwrap
import time
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table
from rich.text import Text

from services.trainer.data.blocks.edits import edit
from services.trainer.data.blocks.language import canonical_caption, draw_request
from services.trainer.data.blocks.questions import ask_many
from services.trainer.data.blocks.reader import judge, read
from services.trainer.data.blocks.render import render
from services.trainer.data.blocks.textures import PICTURE_SIZE
from services.trainer.data.blocks.world import Scene, sample_scene
from triptych.client import Client
from triptych.errors import CheckpointError, InvalidArgument, TriptychError
from triptych.replies import Done, Drawing, Reply
from triptych.requests import Params
from triptych.up import LocalSystem

STAGES = ("encoder", "llm", "decoder")
RIGHT, WRONG, PLAIN = "#1a7f37", "#c62828", "#222222"
TILE_WIDTH, PICTURE_WIDTH, LINE_CHARS, LINE_HEIGHT = 340, 128, 54, 15  # of the contact sheet


@dataclass
class Tile:
    """One field of the contact sheet: pictures side by side, and lines of text with their colours."""

    pictures: list[Image.Image]
    lines: list[tuple[str, str]] = field(default_factory=list)


class Demo:
    """A run: talks to one system, prints a transcript, keeps the pictures and counts what was right."""

    def __init__(self, client: Client, folder: Path, seed: int) -> None:
        self.client, self.folder = client, folder
        self.rng = random.Random(seed)
        self.console = Console(highlight=False, width=110)
        self.rows: dict[str, list[Tile]] = {}
        self.outcomes: dict[str, list[tuple[bool, Done]]] = defaultdict(list)

    def questions(self) -> None:
        """Three pictures of one to three blocks, three questions about each."""
        for number in (1, 2, 3):
            scene = sample_scene(self.rng, "held_out", number)
            picture = self._rendered(scene, f"picture-{number}")
            tile = self._tile("questions", picture)
            for question in ask_many(scene, self.rng, 3):
                self._say("you", question.text)
                reply = self.client.chat().send(question.text, [picture], "understand")
                self._check_text("questions", tile, question.text, question.answer, reply)

    def drawings(self) -> None:
        """Three pictures from a text."""
        for number in (1, 2, 3):
            scene = sample_scene(self.rng, "held_out", number)
            request = draw_request(scene, self.rng)
            self._say("you", request)
            reply = self.client.chat().send(request, (), "generate", Params(seed=number))
            self._check_picture("drawings", self._tile("drawings"), f"drawing-{number}", request, scene, reply)

    def edits(self) -> None:
        """Three pictures changed as told."""
        for number in (1, 2, 3):
            scene = sample_scene(self.rng, "held_out", number)
            change = edit(scene, self.rng, "held_out")
            before = self._rendered(scene, f"before-{number}")
            self._say("you", change.instruction)
            reply = self.client.chat().send(change.instruction, [before], "edit", Params(seed=number))
            tile = self._tile("edits", before)
            self._check_picture("edits", tile, f"after-{number}", change.instruction, change.result, reply)

    def conversation(self) -> None:
        """Draw, change what was drawn, then ask about the result."""
        scene = sample_scene(self.rng, "held_out", 1)
        while scene.blocks[0].colour == "blue":
            scene = sample_scene(self.rng, "held_out", 1)
        blue = scene.with_change(scene.blocks, [replace(scene.blocks[0], colour="blue")])
        chat = self.client.chat()
        turns = ((draw_request(scene, self.rng), "generate", scene), ("Make it blue.", "edit", blue))
        for number, (text, task, target) in enumerate(turns, start=1):
            self._say("you", text)
            reply = chat.send(text, (), task, Params(seed=number))  # type: ignore[arg-type]
            tile = self._tile("conversation")
            self._check_picture("conversation", tile, f"conversation-{number}", text, target, reply)
        tile = self._tile("conversation")
        for question, answer in (("What color is it?", "blue"), ("Where is it?", blue.blocks[0].cell_name)):
            self._say("you", question)
            self._check_text("conversation", tile, question, answer, chat.send(question, (), "understand"))

    def _check_text(self, kind: str, tile: Tile, question: str, expected: str, reply: Reply) -> None:
        is_right = reply.text == expected
        self.outcomes[kind].append((is_right, reply.done))
        said = "".join(c if c.isprintable() else " " for c in reply.text) or "(no text)"
        verdict = "right" if is_right else f"wrong, expected: {expected}"
        self._say("model", said, verdict, is_right, reply.done)
        tile.lines += [(question, PLAIN), (f"{said} ({verdict})", RIGHT if is_right else WRONG)]

    def _check_picture(self, kind: str, tile: Tile, name: str, request: str, target: Scene, reply: Reply) -> None:
        path = self.folder / f"{name}.png"
        verdict, is_right = "wrong, it drew nothing", False
        if reply.images:
            picture = _picture(reply.images[0])
            picture.save(path)
            tile.pictures.append(picture)
            # Whoever asks for a drawing and names no background may get any.
            verdict, is_right = _verdict(picture, target, kind != "drawings" or "background" in request)
        self.outcomes[kind].append((is_right, reply.done))
        self._say("model", f"{path}" if reply.images else reply.text, verdict, is_right, reply.done)
        tile.lines += [(request, PLAIN), (verdict, RIGHT if is_right else WRONG)]

    def _rendered(self, scene: Scene, name: str) -> Image.Image:
        picture = Image.fromarray(render(scene, self.rng.getrandbits(31)))
        path = self.folder / f"{name}.png"
        picture.save(path)
        self.console.print(Text(f"  {path}: {canonical_caption(scene)}", "dim"), soft_wrap=True)
        return picture

    def _tile(self, kind: str, *pictures: Image.Image) -> Tile:
        self.rows.setdefault(kind, []).append(Tile(list(pictures)))
        return self.rows[kind][-1]

    def _say(self, who: str, what: str, verdict: str = "", is_right: bool = False, done: Done | None = None) -> None:
        line = Text(f"  {who:>6}  ", "bold cyan" if who == "model" else "bold").append(what.strip(), "default not bold")
        if done is not None:
            times = "  ".join(f"{stage} {ms:.0f} ms" for stage, ms in _times(done).items())
            line.append(f"\n          {verdict}", "green" if is_right else "red").append(f"   {times}", "dim not bold")
        self.console.print(line, soft_wrap=True)

    def summary(self, seconds: float) -> None:
        """What was right, and the median time of each stage."""
        table = Table("", "right", "total", *STAGES, title="Median times in milliseconds", title_justify="left")
        for kind, outcomes in self.outcomes.items():
            times = [_times(done) for _, done in outcomes]
            medians = [[t[stage] for t in times if stage in t] for stage in ("total", *STAGES)]
            shown = [f"{median(ms):.0f}" if ms else "" for ms in medians]
            table.add_row(kind, f"{sum(right for right, _ in outcomes)} of {len(outcomes)}", *shown)
        self.console.print(table)
        self.console.print(f"All of it took {seconds:.0f} s. Pictures and logs are in {self.folder}/.")


def _verdict(picture: Image.Image, target: Scene, minds_background: bool) -> tuple[str, bool]:
    """What the scene reader finds, in words, and whether every block is right and none extra."""
    pixels = np.asarray(picture.resize((PICTURE_SIZE, PICTURE_SIZE)))
    found = judge(pixels, target)
    words = f"{'right' if found.exact else 'wrong'}: {found.num_right} of {found.num_blocks} blocks"
    if found.size_right < found.num_right:
        words += f", {found.size_right} of them in size too"
    if minds_background and not found.background_right:
        words += ", background wrong"
    if not found.exact:
        seen = ", ".join(f"{b.size} {b.colour} {b.shape} {b.cell_name}" for b in read(pixels).blocks)
        words += f"; the reader sees: {seen or 'no block'}"
    return words, found.exact


def _picture(drawing: Drawing) -> Image.Image:
    with Image.open(io.BytesIO(drawing.png)) as image:
        return image.convert("RGB")


def _times(done: Done) -> dict[str, float]:
    """Milliseconds, queueing included: in all, and of each stage that took part."""
    times = {"total": done.total_ms}
    for stage in STAGES:
        spent = [t.queued_ms + t.running_ms for t in done.stage_times if t.stage == stage]
        times |= {stage: sum(spent)} if spent else {}
    return times


def contact_sheet(rows: dict[str, list[Tile]], title: str) -> Image.Image:
    """All tiles, a row for each kind, three in a row."""
    heights = {kind: 60 + max(map(_height, tiles)) for kind, tiles in rows.items()}
    sheet = Image.new("RGB", (3 * TILE_WIDTH + 20, 40 + sum(heights.values())), "white")
    pen, font, bold = ImageDraw.Draw(sheet), ImageFont.load_default(12), ImageFont.load_default(17)
    pen.text((16, 10), title, PLAIN, bold)
    top = 40
    for kind, tiles in rows.items():
        pen.line((16, top, sheet.width - 16, top), "#cccccc")
        pen.text((16, top + 8), kind, PLAIN, bold)
        for column, tile in enumerate(tiles):
            left, y = 16 + column * TILE_WIDTH, top + 38
            for index, picture in enumerate(tile.pictures):
                enlarged = picture.resize((PICTURE_WIDTH, PICTURE_WIDTH), Image.Resampling.NEAREST)
                sheet.paste(enlarged, (left + index * (PICTURE_WIDTH + 12), y))
            y += PICTURE_WIDTH + 8 if tile.pictures else 0
            for line, colour in _wrapped(tile):
                pen.text((left, y), line, colour, font)
                y += LINE_HEIGHT
        top += heights[kind]
    return sheet


def _height(tile: Tile) -> int:
    return (PICTURE_WIDTH + 8 if tile.pictures else 0) + LINE_HEIGHT * len(_wrapped(tile))


def _wrapped(tile: Tile) -> list[tuple[str, str]]:
    return [(line, colour) for text, colour in tile.lines for line in textwrap.wrap(text, LINE_CHARS)]


def run(checkpoint: Path, folder: Path, sheet: Path, seed: int) -> None:
    """Raises TriptychError when a process fails or a call does."""
    started = time.monotonic()
    system = LocalSystem(checkpoint, log_dir=folder / "logs")
    folder.mkdir(parents=True, exist_ok=True)
    with system, Client(system.address) as client:
        demo = Demo(client, folder, seed)
        cards = [replica.description.card for replica in client.components().replicas]
        names = [f"{card.kind} {card.name} {card.version}" for card in cards]
        seconds = time.monotonic() - started
        demo.console.print(f"{', '.join(names)} and the orchestrator serve after {seconds:.0f} s at {system.address}")
        for part in (demo.questions, demo.drawings, demo.edits, demo.conversation):
            demo.console.rule(f"{part.__name__}: {part.__doc__}", align="left")
            part()
            system.check()
        verdicts = [is_right for outcomes in demo.outcomes.values() for is_right, _ in outcomes]
        sheet.parent.mkdir(parents=True, exist_ok=True)
        title = f"{names[0].partition(' ')[2]}: {sum(verdicts)} of {len(verdicts)} right, scenes never trained on"
        contact_sheet(demo.rows, title).save(sheet)
        demo.console.rule("summary", align="left")
        demo.summary(time.monotonic() - started)
        demo.console.print(f"All on one sheet: {sheet}")


def main() -> int:
    """0 when every process ran and every call was answered, whatever the answers are worth."""
    parser = argparse.ArgumentParser(
        prog="python examples/demo.py", description="Ask, draw, edit, talk: the whole system."
    )
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/genllava-tiny"), help="what to serve")
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder for pictures and logs")
    parser.add_argument("--contact-sheet", type=Path, help="where to put it; by default into the output folder")
    parser.add_argument("--seed", type=int, default=0, help="another one shows other scenes")
    args = parser.parse_args()
    try:
        run(args.checkpoint, args.output, args.contact_sheet or args.output / "contact-sheet.png", args.seed)
    except (CheckpointError, InvalidArgument) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except TriptychError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
