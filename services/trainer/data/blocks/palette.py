"""The RGB values of the block colours and the background tones."""

from services.trainer.data.blocks.attributes import Background, Colour

RGB = tuple[int, int, int]

COLOUR_RGB: dict[Colour, RGB] = {
    "red": (222, 38, 38),
    "green": (34, 160, 52),
    "blue": (36, 72, 224),
    "yellow": (246, 208, 16),
    "purple": (142, 36, 186),
    "cyan": (20, 200, 216),
}

# Low chroma, so that a pixel's chroma alone tells block from background.
BACKGROUND_RGB: dict[Background, RGB] = {
    "white": (243, 243, 241),
    "grey": (134, 134, 136),
    "black": (24, 24, 26),
    "sand": (204, 188, 156),
}
