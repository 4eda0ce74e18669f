"""Encoded files to RGB pictures. Nothing is decoded before its size has been read from the header and found in bounds.

Callers that lay transparency on a colour or turn pictures upright do so before: the orchestrator sends plain RGB.
"""

import io
import struct
from typing import Final

from PIL import Image

from triptych.errors import InvalidArgument

FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
# What Pillow's parsers are known to raise on broken files; an unidentified one is an OSError.
BROKEN: Final = (OSError, EOFError, SyntaxError, ValueError, LookupError, TypeError, OverflowError, struct.error)
BOMBS: Final = (Image.DecompressionBombError, Image.DecompressionBombWarning)


def decode(data: bytes, max_pixels: int, name: str) -> Image.Image:
    """The first frame. Raises InvalidArgument naming `name` when it is no picture, broken, or above `max_pixels`."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise InvalidArgument(f"{name} is {width}x{height}, must have at most {max_pixels} pixels")
            return image.convert("RGB")
    except (*BROKEN, *BOMBS) as error:
        raise InvalidArgument(
            f"{name} ({len(data)} bytes) must be a whole {', '.join(FORMATS)} file of at most {max_pixels} pixels: "
            f"{type(error).__name__}"
        ) from error
