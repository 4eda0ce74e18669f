"""Preprocessing is transformers' SiglipImageProcessor or CLIPImageProcessor (their Pillow backends: no torchvision),
value for value."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from triptych.errors import CheckpointError, InvalidArgument
from triptych.models.processors import ImageProcessor, to_pictures, to_pixels

SIZES = [(32, 32), (64, 64), (17, 33), (300, 8), (1, 1), (127, 200)]  # (width, height)


def noise(width: int, height: int) -> NDArray[np.uint8]:
    return np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_equals_transformers(size: tuple[int, int], tmp_path: Path) -> None:
    ours = ImageProcessor(size=32)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(ours.to_dict()))
    theirs = SiglipImageProcessorPil.from_pretrained(str(tmp_path))
    image = Image.fromarray(noise(*size))
    found = ours([image])
    wanted = theirs(images=[image], return_tensors="pt")["pixel_values"]
    assert found.shape == (1, 3, 32, 32)
    # Far closer than a grey level: the resized bytes are the same, only the arithmetic after them differs.
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    assert ImageProcessor.load(tmp_path) == ours


@pytest.mark.parametrize("size", [*SIZES, (33, 32), (333, 500)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_cropping_equals_transformers(size: tuple[int, int], tmp_path: Path) -> None:
    ours = ImageProcessor(size=32, fit="crop")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(ours.to_dict()))
    theirs = CLIPImageProcessorPil.from_pretrained(str(tmp_path))
    image = Image.fromarray(noise(*size))
    wanted = theirs(images=[image], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(ours([image]), wanted, rtol=0, atol=1e-6)
    assert ImageProcessor.load(tmp_path) == ours


def test_strips_too_long_to_crop_are_refused() -> None:
    processor = ImageProcessor(size=32, fit="crop")
    assert processor([Image.new("RGB", (3, 300))]).shape == (1, 3, 32, 32)
    with pytest.raises(InvalidArgument, match="picture is 3 x 301, its sides differ over 100 times"):
        processor([Image.new("RGB", (3, 301))])


def test_sizes_as_old_files_write_them(tmp_path: Path) -> None:
    """openai/clip-vit-large-patch14-336 has plain numbers."""
    ours = ImageProcessor(size=336, fit="crop")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(ours.to_dict() | {"size": 336, "crop_size": 336}))
    assert ImageProcessor.load(tmp_path) == ours


@pytest.mark.parametrize("resample", [Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.LANCZOS])
def test_other_statistics_and_filters(resample: Image.Resampling, tmp_path: Path) -> None:
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    ours = ImageProcessor(size=24, mean=mean, std=std, resample=int(resample))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(ours.to_dict()))
    theirs = SiglipImageProcessorPil.from_pretrained(str(tmp_path))
    image = Image.fromarray(noise(40, 50))
    wanted = theirs(images=[image], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(ours([image]), wanted, rtol=0, atol=1e-6)


def test_a_batch_is_each_alone_whatever_the_sizes() -> None:
    processor = ImageProcessor(size=32)
    images = [Image.fromarray(noise(*size)) for size in SIZES]
    batch = processor(images)
    assert batch.dtype == torch.float32
    for row, image in zip(batch, images, strict=True):
        assert torch.equal(row, processor([image])[0])


def test_grey_and_transparent_pictures_become_rgb() -> None:
    processor = ImageProcessor(size=8)
    grey = Image.fromarray(noise(8, 8)[..., 0])
    assert torch.equal(processor([grey])[0, 0], processor([grey])[0, 2])
    colours = Image.fromarray(noise(8, 8))
    assert torch.equal(processor([colours.convert("RGBA")]), processor([colours]))


@pytest.mark.parametrize(
    "changed",
    [
        {"size": {"height": 32, "width": 24}},
        {"size": {"shortest_edge": 32}},
        {"do_center_crop": True, "crop_size": 32},
        {"do_center_crop": True, "size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 24}},
        {"do_center_crop": True, "size": 40, "crop_size": 32},
        {"do_resize": False},
        {"do_normalize": False},
        {"do_rescale": False},
        {"rescale_factor": 1 / 127.5},
        {"rescale_factor": None},
        {"do_pad": True},  # square by borders, as LLaVA's own code can
        {"do_center_crop": True, "size": None, "crop_size": 32},
        {"do_center_crop": True, "size": [32, 32], "crop_size": 32},
        {"do_center_crop": True, "size": 32, "crop_size": None},
        {"size": {"height": "wide", "width": "wide"}},
        {"resample": "bicubic"},
        {"resample": 99},
        {"image_mean": 0.5},
        {"image_mean": [0.5]},
        {"image_std": [0.5] * 4},
    ],
    ids=str,
)
def test_what_this_class_does_not_do_is_refused(changed: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(ImageProcessor(size=32).to_dict() | changed))
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json"):
        ImageProcessor.load(tmp_path)


@pytest.mark.parametrize("key", ["size", "image_mean", "image_std", "resample"])
def test_missing_keys_are_named(key: str, tmp_path: Path) -> None:
    values = ImageProcessor(size=32).to_dict()
    del values[key]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=rf"preprocessor_config\.json.*{key}"):
        ImageProcessor.load(tmp_path)


def test_pixels_and_pictures_are_each_other_s_inverse() -> None:
    pictures = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    pixels = to_pixels(pictures)
    assert pixels.shape == (1, 3, 16, 16)
    assert (pixels.min().item(), pixels.max().item()) == (-1, 1)
    assert np.array_equal(to_pictures(pixels / 2 + 0.5), pictures)  # every one of the 256 levels
    colours = noise(5, 7)[None]
    assert np.array_equal(to_pictures(to_pixels(colours) / 2 + 0.5), colours)


def test_pictures_are_clamped_and_rounded() -> None:
    values = torch.tensor([-1.0, 0.0, 0.4999 / 255, 0.5001 / 255, 254.4 / 255, 1.0, 7.0]).reshape(1, 1, 1, 7)
    assert to_pictures(values.expand(1, 3, 1, 7))[0, 0, :, 0].tolist() == [0, 0, 0, 1, 254, 255, 255]
    assert to_pictures(torch.ones(1, 3, 2, 2, dtype=torch.bfloat16)).min() == 255
