"""Questions whether something is in the picture: half yes, half no, with near misses for the no."""

import random
from dataclasses import dataclass
from itertools import product

from services.trainer.data.blocks.words import pick, place, shape_word, thing_noun
from services.trainer.data.blocks.world import CELLS, COLOURS, SHAPES, Block, Colour, Scene, Shape

_MAX_TRIES = 100
_HARD_SHARE = 0.7
_FORMS: dict[tuple[str, ...], int] = {
    ("shape",): 3,
    ("colour",): 3,
    ("shape", "colour"): 5,
    ("shape", "colour", "cell"): 3,
    ("shape", "cell"): 1,
    ("colour", "cell"): 1,
    ("cell",): 2,
}


@dataclass(frozen=True)
class Description:
    """What is asked for; None stands for an attribute left open."""

    shape: Shape | None
    colour: Colour | None
    cell: int | None

    def fits(self, block: Block) -> bool:
        """Whether the block is as described."""
        return (
            self.shape in (None, block.shape)
            and self.colour in (None, block.colour)
            and self.cell in (None, block.cell)
        )


def exists(scene: Scene, rng: random.Random) -> tuple[str, str]:
    """A question whether something is there, and its answer: yes or no at even odds, while anything is missing."""
    # The form is drawn before the answer, so that no form betrays the answer.
    form = rng.choices(tuple(_FORMS), tuple(_FORMS.values()))[0]
    is_there = rng.random() < 0.5
    missing = None if is_there else _absent(scene, form, rng)
    return _wording(missing or _present(scene, form, rng), rng), "no" if missing else "yes"


def _present(scene: Scene, form: tuple[str, ...], rng: random.Random) -> Description:
    return _limited(rng.choice(scene.blocks), form)


def _limited(block: Block, form: tuple[str, ...]) -> Description:
    return Description(
        block.shape if "shape" in form else None,
        block.colour if "colour" in form else None,
        block.cell if "cell" in form else None,
    )


def _absent(scene: Scene, form: tuple[str, ...], rng: random.Random) -> Description | None:
    # None: nothing is missing, as far as many tries tell (a crowded picture may hold every colour).
    blocks = scene.blocks
    # Near misses: every value asked for occurs in the scene, or all but one belong to one block.
    shapes: tuple[Shape | None, ...] = tuple({b.shape: None for b in blocks}) if "shape" in form else (None,)
    colours: tuple[Colour | None, ...] = tuple({b.colour: None for b in blocks}) if "colour" in form else (None,)
    cells: tuple[int | None, ...] = tuple(b.cell for b in blocks) if "cell" in form else (None,)
    if len(form) > 1 and rng.random() < _HARD_SHARE:
        mixed = [Description(*values) for values in product(shapes, colours, cells)]
        moved = [Description(d.shape, d.colour, cell) for d in mixed for cell in scene.empty_cells if "cell" in form]
        # A list of its own for each, for the empty cells are many and would crowd the mixtures out.
        for near_misses in rng.sample((mixed, moved), 2):
            missing = [wanted for wanted in near_misses if not any(wanted.fits(block) for block in blocks)]
            if missing:
                return rng.choice(missing)
    for _ in range(_MAX_TRIES):
        wanted = Description(
            rng.choice(SHAPES) if "shape" in form else None,
            rng.choice(COLOURS) if "colour" in form else None,
            rng.randrange(len(CELLS)) if "cell" in form else None,
        )
        if not any(wanted.fits(block) for block in blocks):
            return wanted
    return None


def _wording(wanted: Description, rng: random.Random) -> str:
    where = f" {place(wanted.cell, rng)}" if wanted.cell is not None else ""
    if wanted.shape is None and wanted.colour is None:
        return f"is there anything{where}?"
    if wanted.shape is None and rng.random() < 0.4:
        return f"is there anything {wanted.colour}{where}?"
    noun = shape_word(wanted.shape, rng) if wanted.shape else thing_noun(rng)
    thing = f"{wanted.colour} {noun}" if wanted.colour else noun
    article = "an" if thing == "object" else "a"
    return pick(("is there {} {}{}?", "do you see {} {}{}?"), rng).format(article, thing, where)
