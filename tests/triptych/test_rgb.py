"""Pictures as files have them to pictures as models see them."""

import numpy as np
import pytest
from PIL import Image

from triptych.rgb import as_rgb


def test_upright() -> None:
    image = Image.new("RGB", (6, 3))
    image.getexif()[0x0112] = 6
    assert as_rgb(image).size == (3, 6)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparent_is_white(mode: str) -> None:
    assert as_rgb(Image.new("RGBA", (2, 2), (0, 0, 0, 0)).convert(mode)).getextrema() == ((255, 255),) * 3


def test_16_bits_are_scaled() -> None:
    image = Image.fromarray(np.array([[0, 128 * 256, 65535]], np.uint16))
    assert np.asarray(as_rgb(image))[0, :, 0].tolist() == [0, 128, 255]


def test_floats_have_no_white() -> None:
    with pytest.raises(ValueError, match="floating-point"):
        as_rgb(Image.new("F", (2, 2)))
