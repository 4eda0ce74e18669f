import io
import struct
import zlib
from random import Random

import numpy as np
import pytest
from PIL import Image

from services.orchestrator.images import normalise
from tests.services.orchestrator.cards import picture
from triptych.errors import InvalidArgument

MAX_PIXELS = 10_000


def saved(image: Image.Image, format: str = "PNG", **options) -> bytes:
    data = io.BytesIO()
    image.save(data, format, **options)
    return data.getvalue()


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(normalise(data, MAX_PIXELS))) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.asarray(image)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_formats(format: str) -> None:
    found = pixels(picture((200, 30, 60), format=format))
    assert found.shape == (8, 8, 3)
    assert np.abs(found.astype(int) - (200, 30, 60)).max() <= 8


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_modes(mode: str) -> None:
    image = Image.fromarray(np.full((4, 4), 65535, np.uint16)) if mode == "I;16" else Image.new(mode, (4, 4), "white")
    assert (pixels(saved(image)) == 255).all()


def test_16_bits_are_scaled_not_clipped() -> None:
    image = Image.fromarray(np.array([[0, 0x1234, 0x8000, 0xFFFF]], np.uint16))
    assert pixels(saved(image))[0, :, 0].tolist() == [0, 0x12, 0x80, 0xFF]


def test_cmyk() -> None:
    found = pixels(saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    assert np.abs(found.astype(int) - (255, 0, 0)).max() <= 8


def test_transparency_is_laid_on_white() -> None:
    assert pixels(saved(Image.new("RGBA", (2, 2), (255, 0, 0, 0)))).min() == 255
    assert pixels(saved(Image.new("RGBA", (2, 2), (255, 0, 0, 128))))[0, 0].tolist() == [255, 127, 127]
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([255, 0, 0])
    assert pixels(saved(palette, transparency=0)).min() == 255


def test_rotated_photo_stands_upright() -> None:
    image = Image.new("RGB", (6, 3), "black")
    image.paste("white", (0, 0, 3, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    found = pixels(saved(image, exif=exif))
    assert found.shape == (6, 3, 3)
    assert (found[:3].min(), found[3:].max()) == (255, 0)


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    for format in ("GIF", "WEBP", "PNG"):
        data = saved(frames[0], format, save_all=True, append_images=frames[1:])
        assert pixels(data)[0, 0].tolist()[0] > 200, format


@pytest.mark.parametrize(
    "data",
    [
        b"hello",
        b"\x89PNG\r\n\x1a\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        bytes(100),
    ],
)
def test_not_a_picture(data: bytes) -> None:
    with pytest.raises(InvalidArgument, match=rf"photo \({len(data)} bytes\) is (not a picture|truncated)"):
        normalise(data, MAX_PIXELS, "photo")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated(format: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = saved(Image.fromarray(noise), format)
    with pytest.raises(InvalidArgument, match="not a picture|truncated"):
        normalise(data[: len(data) // 2], MAX_PIXELS)


@pytest.mark.parametrize("side", [101, 20_000])
def test_bomb_is_refused_before_it_is_decoded(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    with pytest.raises(InvalidArgument, match="far too large|101x101, must have at most 10000 pixels"):
        normalise(_claims(side, side), MAX_PIXELS)


def test_no_width() -> None:
    with pytest.raises(InvalidArgument):
        normalise(_claims(0, 5), MAX_PIXELS)


def test_floating_point_pixels() -> None:
    with pytest.raises(InvalidArgument, match="floating-point"):
        normalise(saved(Image.new("F", (2, 2)), "TIFF"), MAX_PIXELS)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_damaged_files_are_refused_or_read_never_anything_else(format: str) -> None:
    random = Random(format)
    ramp = np.arange(768, dtype=np.uint16).astype(np.uint8).reshape(16, 16, 3)
    whole = saved(Image.fromarray(ramp), format)
    num_refused = 0
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(random.randrange(1, 8)):
            data[random.randrange(len(data))] = random.randrange(256)
        try:
            normalise(bytes(data), MAX_PIXELS)
        except InvalidArgument:
            num_refused += 1
    assert num_refused > 0


def _claims(width: int, height: int) -> bytes:
    """A PNG whose header alone names the size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
