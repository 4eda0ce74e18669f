"""What embeds pictures, whichever backend computes it, and its golden probe. No torch here."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from triptych.models.probe_values import Array, Inputs, phases, thin
from triptych.models.processors import ImageProcessor


class Embedder(Protocol):
    """Pictures to embeddings in the LLM's input space, numpy in and out."""

    @property
    def processor(self) -> ImageProcessor: ...

    def embed(self, pixel_values_BCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embeddings (B, M, D_llm) for any B of at least 1."""


def encoder_probe(embedder: Embedder, name: str, inputs: Inputs) -> Array:
    """`pixels-*`: preprocessing alone. `embeddings-*`: the whole way from a picture (H, W, 3)."""
    pixel_values = embedder.processor.pixel_values([Image.fromarray(inputs["picture"])])
    if name.startswith("pixels"):
        return phases(thin(pixel_values))
    return thin(embedder.embed(pixel_values))
