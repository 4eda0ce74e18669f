"""An independent reading of the language of Blocks, against which the tests check what it says."""

import re

from services.trainer.data.blocks.world import CELLS, COLOURS, SHAPES, Block, Scene

SYNONYMS = {
    "big": "large",
    "little": "small",
    "plus": "cross",
    "gray": "grey",
    "middle": "center",
    "upper": "top",
    "lower": "bottom",
    "colour": "color",
}
SINGULARS = {"circles": "circle", "squares": "square", "triangles": "triangle", "crosses": "cross", "pluses": "cross"}


def normal(text: str) -> str:
    """Lower case, one spelling, no punctuation but commas."""
    words = re.findall(r"[a-z0-9]+|,", text.lower())
    words = [SINGULARS.get(word, word) for word in words]
    return " ".join(SYNONYMS.get(word, word) for word in words).replace(" ,", ",")


def matches(phrase: str, scene: Scene) -> list[Block]:
    """The blocks of the scene that fit every attribute a normalised phrase names."""
    if phrase.strip() == "it":
        return list(scene.blocks)
    words = phrase.split()
    cell = cell_in(phrase)
    return [
        block
        for block in scene.blocks
        if all(block.colour == word for word in words if word in COLOURS)
        and all(block.shape == word for word in words if word in SHAPES)
        and all(block.size == word for word in words if word in ("small", "large"))
        and (cell is None or block.cell == cell)
    ]


def the_one(phrase: str, scene: Scene) -> Block:
    """The single block the phrase refers to."""
    found = matches(phrase, scene)
    assert len(found) == 1, (phrase, scene)
    return found[0]


def cell_in(phrase: str) -> int | None:
    """The cell a normalised phrase ends in, if any."""
    named = [cell for cell in CELLS if re.search(rf"\b{cell}$", phrase.strip())]
    return CELLS.index(max(named, key=len)) if named else None


def stated_blocks(text: str) -> list[tuple[str, str, str | None, int]]:
    """Every (shape, colour, size or None, cell) that a caption or a request states."""
    cells = "|".join(sorted(CELLS, key=len, reverse=True))
    pattern = rf"(?:(small|large) )?({'|'.join(COLOURS)}) ({'|'.join(SHAPES)}) (?:(?:at|in) the )?({cells})\b"
    found = re.findall(pattern, normal(text))
    return [(shape, colour, size or None, CELLS.index(cell)) for size, colour, shape, cell in found]
