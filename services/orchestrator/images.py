"""Pictures as users send them to pictures as encoders see them: 8-bit RGB PNG, upright, first frame. Blocking: the
pipeline calls it on a thread. Nothing is decoded before its size has been read from the header and found in bounds.
"""

import io
import struct
from typing import Final

from PIL import Image, UnidentifiedImageError

from triptych.errors import InvalidArgument
from triptych.rgb import as_rgb

FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_BROKEN: Final = (OSError, EOFError, SyntaxError, ValueError, LookupError, TypeError, OverflowError, struct.error)


def normalise(data: bytes, max_pixels: int, name: str = "image") -> bytes:
    """The picture as 8-bit RGB PNG. Transparency is laid on white. Raises InvalidArgument naming `name` when it is no
    picture, broken, or larger than `max_pixels`.
    """
    png = io.BytesIO()
    _decoded(data, max_pixels, name).save(png, "PNG", compress_level=1)
    return png.getvalue()


def check(data: bytes, max_pixels: int, name: str = "image") -> int:
    """How many bytes its pixels take, which bounds its PNG. Raises what `normalise` raises, sooner."""
    width, height = _decoded(data, max_pixels, name).size
    return 3 * width * height


def _decoded(data: bytes, max_pixels: int, name: str) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image, max_pixels, name)
            image.load()
            if image.mode == "F":
                raise InvalidArgument(f"{name} has floating-point pixels, must have integer ones")
            return as_rgb(image)
    except (UnidentifiedImageError, Image.DecompressionBombError, Image.DecompressionBombWarning, *_BROKEN) as error:
        raise InvalidArgument(
            f"{name} ({len(data)} bytes) is {_complaint(error)}, must be a whole {', '.join(FORMATS)} file"
        ) from error


def _check_size(image: Image.Image, max_pixels: int, name: str) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise InvalidArgument(f"{name} is {width}x{height}, must have at most {max_pixels} pixels")


def _complaint(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not a picture"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return "far too large"
    return "truncated or broken"
