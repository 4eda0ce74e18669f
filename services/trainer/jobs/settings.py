"""How patient the machinery around a job is. Every field is also an environment variable: TRIPTYCH_JOBS_LEASE_S."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class JobSettings(BaseSettings):
    """The same for all workers of a broker."""

    model_config = SettingsConfigDict(env_prefix="TRIPTYCH_JOBS_", frozen=True, extra="forbid")

    lease_s: float = Field(60.0, gt=0, description="a worker that has been silent for so long has lost its job")
    beat_s: float = Field(1.0, gt=0, description="between two signs of life, and two looks for a cancellation")
    patrol_s: float = Field(5.0, gt=0, description="between two looks for lost jobs, and for the embedded broker")
    grace_s: float = Field(5.0, ge=0, description="from SIGTERM to SIGKILL for what a job started")
    gather_s: float = Field(60.0, gt=0, description="a node that is ready waits so long for the others")
    visibility_timeout_s: float = Field(
        3600.0, gt=0, description="a message that a worker took and never began goes back into its queue after this"
    )
    trainer: str = Field("", description="the command instead of `python -m services.trainer`, as a shell splits it")
