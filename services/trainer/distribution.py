"""How a training stage is spread over processes, machines and memory."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Distribution(BaseModel):
    """How a stage's step is spread over processes and memory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_nodes: int = Field(1, ge=1)
    num_processes: int = Field(1, ge=1, description="on each node: one for each GPU")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["f32", "bf16"] = "bf16"
    shard: bool = Field(True, description="FSDP2 shards parameters; false: every rank keeps them whole")
    activation_checkpointing: bool = False
    micro_batch_size: int = Field(0, ge=0, description="samples of a rank in one pass; 0: its whole share of the batch")
    keep_checkpoints: int = Field(2, ge=1, description="the newest so many training states are kept")

    @property
    def num_ranks(self) -> int:
        return self.num_nodes * self.num_processes
