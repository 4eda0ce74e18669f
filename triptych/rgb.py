"""Any picture as all parts of the system see it, in training and serving: upright, on white, 8-bit RGB."""

import numpy as np
from PIL import Image, ImageOps


def as_rgb(image: Image.Image) -> Image.Image:
    """Turned as its EXIF orientation says; transparency laid on white; 16 bits in one channel scaled to 8, where Pillow
    itself would clip. Raises ValueError for floating-point pixels, whose white nobody knows."""
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels")
    if image.mode.startswith("I"):
        pixels = np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8
        image = Image.fromarray(pixels.astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")
