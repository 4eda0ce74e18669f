"""Settings of the LLM service."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from triptych.serving.config import ComponentConfig


class LlmConfig(ComponentConfig):
    """`max_queue_size` bounds the sequences that wait for one of the `max_num_seqs` places."""

    model_config = SettingsConfigDict(env_prefix="LLM_")

    max_num_seqs: int = Field(16, ge=1, description="sequences that take turns")
    default_max_images: int = Field(4, ge=0, description="images in one reply where the caller names no number")
    max_images_per_request: int = Field(16, ge=0, description="images in one reply, at most")
    num_threads: int = Field(0, ge=0, description="CPU threads of a forward pass; 0: as torch chooses")
