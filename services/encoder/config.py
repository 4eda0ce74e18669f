"""Settings of the encoder service."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from triptych.serving.config import ComponentConfig


class EncoderConfig(ComponentConfig):
    """`max_queue_size` bounds the requests that wait for the one being run."""

    model_config = SettingsConfigDict(env_prefix="ENCODER_")

    max_batch_size: int = Field(16, ge=1, description="images in one forward pass")
    max_images_per_request: int = Field(16, ge=1, description="images in one Encode call")
    max_pixels: int = Field(16 * 2**20, ge=1, description="largest image; a larger one is refused before it is decoded")
    num_threads: int = Field(0, ge=0, description="CPU threads of a forward pass; 0: as torch chooses")
