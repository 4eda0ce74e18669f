"""Encode as a caller sees it: pictures in, embeddings out."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from triptych.tensors import TensorAssembler
from triptych.v1 import encoder_pb2 as pb


def picture(width: int = 40, height: int = 24, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, format: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, format)
    return file.getvalue()


async def embed(stub: Any, images: Sequence[bytes]) -> tuple[list[np.ndarray], pb.EncodeDone]:
    assemblers: list[TensorAssembler] = []
    done = None
    async for response in stub.Encode(pb.EncodeRequest(images=images), timeout=60):
        match response.WhichOneof("event"):
            case "embedding":
                assert response.embedding.image_index == len(assemblers)
                assemblers.append(TensorAssembler(response.embedding.embeddings, 2**20))
            case "chunk":
                assemblers[-1].add(response.chunk)
            case "done":
                done = response.done
    assert done is not None
    return [assembler.array() for assembler in assemblers], done
