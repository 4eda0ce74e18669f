"""Picture files of a data set: read whole, looked at once, and kept byte for byte."""

import errno
import hashlib
import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from services.trainer.data.fingerprints import picture_hash
from services.trainer.data.records import BadRecord

SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"}
SUBFORMATS = {"MPO": "JPEG"}  # what Pillow calls a JPEG with further pictures behind it, as telephones write them
MAX_PIXELS = 2**26
# What Pillow's decoders raise on damaged files, beside their own UnidentifiedImageError (an OSError).
BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error, zlib.error)


@dataclass(frozen=True)
class PictureFile:
    """The bytes as published, and what they are: `suffix` by content, not by name; `hash` as `picture_hash`."""

    data: bytes
    suffix: str
    sha256: str
    hash: int
    width: int
    height: int


def picture_bytes(path: Path) -> bytes:
    """The file as it is. Raises BadRecord when it is missing, or has a name that no file can have."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, UnicodeEncodeError):
        raise BadRecord("picture missing", path.name) from None
    except OSError as error:
        if error.errno not in (errno.ENAMETOOLONG, errno.ELOOP):
            raise
        raise BadRecord("picture missing", path.name) from None


def picture_suffix(data: bytes) -> str:
    """By the head of a file that `read_picture` has read before."""
    with Image.open(io.BytesIO(data), formats=list(SUFFIXES)) as image:
        return _suffix(image)


def read_picture(path: Path, max_pixels: int = MAX_PIXELS) -> PictureFile:
    """Decodes the file to know that it can be. Raises BadRecord: missing, unreadable or too large."""
    data = picture_bytes(path)
    try:
        with Image.open(io.BytesIO(data), formats=list(SUFFIXES)) as image:
            if image.width * image.height > max_pixels:
                raise BadRecord("picture too large", f"{path.name}: {image.width} x {image.height}")
            width, height, suffix = image.width, image.height, _suffix(image)
            hashed = picture_hash(image)
            ImageOps.exif_transpose(image, in_place=True)  # as models see it: damaged EXIF data prevent that
    except Image.DecompressionBombError as error:
        raise BadRecord("picture too large", f"{path.name}: {error}") from None
    except UnidentifiedImageError:  # its message holds an address, and would differ from run to run
        raise BadRecord("picture unreadable", f"{path.name}: none of {', '.join(SUFFIXES)}") from None
    except BROKEN as error:
        raise BadRecord("picture unreadable", f"{path.name}: {error}") from None
    return PictureFile(data, suffix, hashlib.sha256(data).hexdigest(), hashed, width, height)


def _suffix(image: Image.Image) -> str:
    kind = str(image.format)
    return SUFFIXES[SUBFORMATS.get(kind, kind)]
