"""How patient the machinery around a job is. Every field is also an environment variable: TRIPTYCH_JOBS_LEASE_S."""

from typing import Final, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from triptych.errors import InvalidArgument

PREFIX: Final = "TRIPTYCH_JOBS_"
SAFE_SHARE: Final = 0.8  # of what a lease leaves beside the time to stop a trainer; the rest is for clocks and calls


class JobSettings(BaseSettings):
    """The same for all workers of a broker."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    lease_s: float = Field(60.0, gt=0, description="a worker that has been silent for so long has lost its job")
    beat_s: float = Field(1.0, gt=0, description="between two signs of life, and two looks for a cancellation")
    patrol_s: float = Field(5.0, gt=0, description="between two looks for lost jobs, and for the embedded broker")
    grace_s: float = Field(5.0, ge=0, description="from SIGTERM to SIGKILL for what a job started")
    gather_s: float = Field(60.0, gt=0, description="a node that is ready waits so long for the others")
    visibility_timeout_s: float = Field(
        3600.0, gt=0, description="a message that a worker took and never began goes back into its queue after this"
    )
    trainer: str = Field("", description="the command instead of `python -m services.trainer`, as a shell splits it")

    @classmethod
    def read(cls) -> Self:
        """From the environment. Raises InvalidArgument naming the variable and what is wrong with it."""
        try:
            return cls()
        except ValidationError as error:
            wrong = [(PREFIX + "_".join(map(str, e["loc"])).upper(), e["msg"], e["input"]) for e in error.errors()]
            lines = [f"{name}: {what}" + (f", not {it!r}" if name != PREFIX else "") for name, what, it in wrong]
            raise InvalidArgument("; ".join(lines)) from None

    @property
    def safe_s(self) -> float:
        """So long after its lease was last renewed, a trainer is stopped: it is gone before the lease has run out."""
        return SAFE_SHARE * (self.lease_s - self.grace_s)

    @model_validator(mode="after")
    def _is_heard_in_time(self) -> Self:
        if self.beat_s >= self.safe_s:
            raise ValueError(
                f"beat_s {self.beat_s:g} must be below {self.safe_s:g} "
                f"({SAFE_SHARE:g} of lease_s {self.lease_s:g} less grace_s {self.grace_s:g})"
            )
        return self
