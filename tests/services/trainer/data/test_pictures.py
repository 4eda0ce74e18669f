"""Picture files: what is wrong with one is said, and what is right is kept as it is."""

import hashlib
import io
import random
from pathlib import Path

import pytest
from PIL import Image

from services.trainer.data.pictures import SUFFIXES, picture_suffix, read_picture
from services.trainer.data.records import BadRecord
from tests.services.trainer.data.published import draw


def reason(path: Path, max_pixels: int = 10**6) -> str:
    with pytest.raises(BadRecord) as caught:
        read_picture(path, max_pixels)
    return caught.value.reason


@pytest.mark.parametrize("kind", SUFFIXES)
def test_kept_byte_for_byte_and_named_by_content(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "picture.xyz"
    draw(1).save(path, kind)
    found = read_picture(path)
    assert found.data == path.read_bytes()
    assert found.sha256 == hashlib.sha256(found.data).hexdigest()
    assert (found.suffix, found.width, found.height) == (SUFFIXES[kind], 96, 72)


def test_a_telephones_jpeg(tmp_path: Path) -> None:
    """With a second picture behind the first, which Pillow calls another format."""
    draw(1).save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[draw(2)])
    found = read_picture(tmp_path / "a.jpg")
    assert (found.suffix, found.width, found.height) == ("jpg", 96, 72)
    assert picture_suffix(found.data) == "jpg"


@pytest.mark.parametrize("name", ["none.jpg", "", "x" * 300, "half \ud83d.jpg"])
def test_missing(tmp_path: Path, name: str) -> None:
    assert reason(tmp_path / name) == "picture missing"


def test_a_link_to_itself(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to("a.jpg")
    assert reason(tmp_path / "a.jpg") == "picture missing"


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("exif", [b"garbagegarbage", b"II*\0"])
def test_what_no_model_could_turn_upright(tmp_path: Path, kind: str, exif: bytes) -> None:
    """The pixels are whole, but whoever looks at them reads the EXIF data first."""
    draw(1).save(tmp_path / "a", kind, exif=b"Exif\0\0" + exif)
    assert reason(tmp_path / "a") == "picture unreadable"


def test_too_large(tmp_path: Path) -> None:
    Image.new("1", (2000, 1000)).save(tmp_path / "a.png")
    assert reason(tmp_path / "a.png") == "picture too large"
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    assert reason(tmp_path / "bomb.png", 10**12) == "picture too large"


def test_other_formats_are_not_tried(tmp_path: Path) -> None:
    draw(1).save(tmp_path / "a.tif", "TIFF")
    assert reason(tmp_path / "a.tif") == "picture unreadable"


@pytest.mark.parametrize("kind", SUFFIXES)
def test_damaged_files_are_bad_records_and_nothing_else(tmp_path: Path, kind: str) -> None:
    """60 files each, cut short or with bytes changed: read, or refused as unreadable or too large."""
    buffer = io.BytesIO()
    draw(1).save(buffer, kind)
    whole, rng, refused = buffer.getvalue(), random.Random(0), 0
    path = tmp_path / "a"
    for attempt in range(60):
        data = bytearray(whole[: rng.randrange(len(whole))] if attempt % 2 else whole)
        for _ in range(rng.randrange(1, 20)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(bytes(data))
        try:
            assert read_picture(path, 10**6).data == bytes(data)
        except BadRecord as bad:
            refused += bad.reason in ("picture unreadable", "picture too large")
    assert refused >= 15
    path.write_bytes(b"")
    assert reason(path) == "picture unreadable"
