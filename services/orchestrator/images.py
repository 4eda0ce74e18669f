"""Pictures as users send them to pictures as encoders see them: 8-bit RGB PNG, upright, first frame. Blocking: the
pipeline calls it on a thread. Nothing is decoded before its size has been read from the header and found in bounds.
"""

import io
import struct
from typing import Final

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from triptych.errors import InvalidArgument

FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_BROKEN: Final = (OSError, EOFError, SyntaxError, ValueError, LookupError, TypeError, OverflowError, struct.error)


def normalise(data: bytes, max_pixels: int, name: str = "image") -> bytes:
    """The picture as 8-bit RGB PNG. Transparency is laid on white. Raises InvalidArgument naming `name` when it is no
    picture, broken, or larger than `max_pixels`.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image, max_pixels, name)
            image.load()
            upright = ImageOps.exif_transpose(image)
            rgb = _rgb(upright, name)
    except (UnidentifiedImageError, Image.DecompressionBombError, Image.DecompressionBombWarning, *_BROKEN) as error:
        raise InvalidArgument(
            f"{name} ({len(data)} bytes) is {_complaint(error)}, must be a whole {', '.join(FORMATS)} file"
        ) from error
    png = io.BytesIO()
    rgb.save(png, "PNG", compress_level=1)
    return png.getvalue()


def _check_size(image: Image.Image, max_pixels: int, name: str) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise InvalidArgument(f"{name} is {width}x{height}, must have at most {max_pixels} pixels")


def _rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F":
        raise InvalidArgument(f"{name} has floating-point pixels, must have integer ones")
    if image.mode.startswith("I"):  # 16 bits in one channel: Pillow itself would clip instead of scaling
        pixels = np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8
        image = Image.fromarray(pixels.astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _complaint(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not a picture"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return "far too large"
    return "truncated or broken"
