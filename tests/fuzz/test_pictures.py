"""Broken pictures: taken or refused with InvalidArgument, by the orchestrator and again by the encoder."""

import io
import random
import struct
import zlib
from typing import Final

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from services.encoder.pictures import decode
from services.orchestrator.images import normalise
from tests.fuzz.profiles import examples
from triptych.errors import InvalidArgument

MAX_PIXELS: Final = 64 * 64


def encoded(format_: str, mode: str, **options: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (24, 20, 3)).astype("uint8")
    data = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(data, format_, **options)  # type: ignore[arg-type]
    return data.getvalue()


SEEDS: Final = (
    *(encoded("PNG", mode) for mode in ("RGB", "RGBA", "P", "L", "LA", "1")),
    *(encoded("JPEG", mode) for mode in ("RGB", "L", "CMYK")),
    encoded(
        "JPEG", "RGB", progressive=True, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    ),
    encoded("WEBP", "RGB"),
    encoded("WEBP", "RGBA", lossless=True),
    encoded("GIF", "P", save_all=True, append_images=[Image.new("P", (9, 9))] * 3),
    encoded("BMP", "RGB"),
    *(encoded("TIFF", mode, compression=how) for mode, how in (("RGB", None), ("L", "tiff_lzw"), ("CMYK", "packbits"))),
    encoded("TIFF", "F"),
)


def both(data: bytes) -> None:
    """Refused, or small and RGB."""
    try:
        png = normalise(data, MAX_PIXELS)
    except InvalidArgument as error:
        assert "image" in str(error)
    else:
        with Image.open(io.BytesIO(png)) as image:
            assert (image.format, image.mode) == ("PNG", "RGB")
            assert image.width * image.height <= MAX_PIXELS
    try:
        assert decode(data, MAX_PIXELS, "images[0]").mode == "RGB"
    except InvalidArgument as error:
        assert "images[0]" in str(error)


@examples(250)
@given(st.sampled_from(range(len(SEEDS))), st.integers(0, 2**32), st.integers(1, 12))
@pytest.mark.filterwarnings("ignore")  # Pillow's opinions on broken files
def test_changed_pictures(seed: int, state: int, num_changes: int) -> None:
    """Bytes flipped, mostly where the headers are; the end cut off, or something in between."""
    choose = random.Random(state)
    data = bytearray(SEEDS[seed])
    for _ in range(num_changes):
        at = choose.randrange(min(len(data), 128) if choose.random() < 0.7 else len(data))
        match choose.randrange(4):
            case 0 | 1:
                data[at] = choose.choice((0, 1, 0x7F, 0x80, 0xFF, choose.randrange(256)))
            case 2:
                data[at : at + 4] = struct.pack(">I", choose.choice((0, 1, 2**31 - 1, 2**32 - 1, 70_000)))
            case _:
                del data[at : at + choose.randrange(1, 9)]
        if not data:
            break
    both(bytes(data))


@examples(150)
@given(
    st.sampled_from((b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"MM\0*", b"RIFF\xff\0\0\0WEBPVP8 ")),
    st.binary(max_size=200),
)
@example(b"", b"<svg xmlns='http://www.w3.org/2000/svg'/>")
@example(b"", b"%!PS-Adobe-3.0 EPSF-3.0\n")
@example(b"", b"/etc/passwd")
@pytest.mark.filterwarnings("ignore")
def test_noise(head: bytes, rest: bytes) -> None:
    both(head + rest)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, pixels: bytes = b"\0" * 1000) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    )


ZEROS: Final = zlib.compress(b"\0" * 50_000_000)
BOMBS: Final = {
    "wide": png(60_000, 60_000),
    "one line": png(2**31 - 1, 1),
    "one column": png(1, 2**31 - 1),
    "just above": png(65, 64),
    "text": png(8, 8, chunk(b"zTXt", b"a\0\0" + ZEROS)),
    "profile": png(8, 8, chunk(b"iCCP", b"a\0\0" + ZEROS)),
    "gif": b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x02\x02L\x01\0;",
    "bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 2**31 - 1, -(2**31), 1, 24, 0, 0, 0, 0, 0, 0),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(name: str) -> None:
    with pytest.raises(InvalidArgument):
        normalise(BOMBS[name], MAX_PIXELS)
    with pytest.raises(InvalidArgument):
        decode(BOMBS[name], MAX_PIXELS, "images[0]")
