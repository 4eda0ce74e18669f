"""Settings of the decoder service."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from triptych.serving.config import ComponentConfig


class DecoderConfig(ComponentConfig):
    """`max_queue_size` bounds the requests that wait for one of the `max_num_requests` places."""

    model_config = SettingsConfigDict(env_prefix="DECODER_")

    max_num_requests: int = Field(8, ge=1, description="pictures that take turns")
    num_threads: int = Field(0, ge=0, description="CPU threads of a forward pass; 0: as torch chooses")
