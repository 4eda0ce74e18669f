"""Settings of the encoder service."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from triptych.serving.config import ComponentConfig


class EncoderConfig(ComponentConfig):
    """`max_queue_size` bounds the requests that wait for the one being run. The last four settings are for the
    backends that they name."""

    model_config = SettingsConfigDict(env_prefix="ENCODER_")

    max_batch_size: int = Field(16, ge=1, description="images in one forward pass")
    max_images_per_request: int = Field(16, ge=1, description="images in one Encode call")
    max_pixels: int = Field(16 * 2**20, ge=1, description="largest image; a larger one is refused before it is decoded")
    num_threads: int = Field(0, ge=0, description="CPU threads of a forward pass; 0: as the backend chooses")
    backend: Literal["torch", "onnxruntime", "triton"] = Field("torch", description="what computes the forward pass")
    export: str | None = Field(
        None, description="onnxruntime, triton: which of the card's exports; none: onnx-f32, triton-f32"
    )
    engine_cache: Path | None = Field(
        None, description="onnxruntime: folder that keeps TensorRT engines between starts; none: built at each start"
    )
    triton_address: str = Field("127.0.0.1:8001", description="triton: host:port of the server's gRPC endpoint")
    triton_timeout_s: float = Field(30.0, gt=0, description="triton: how long the server may take over one batch")
