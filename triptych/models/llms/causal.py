"""What causal language models from transformers have in common: embeddings in; logits and states behind them out."""

from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from transformers import Cache

from triptych.models.base import Llm
from triptych.models.transformers_folder import read_transformers, write_transformers


class CausalLlm(Llm):
    """A transformers causal LM seen as its parts: `embed`, `forward` (hidden states), `logits`; a subclass names it."""

    causal_lm_class: ClassVar[type[Any]]

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.causal_lm = self.causal_lm_class(config)

    @property
    def hidden_size(self) -> int:
        return int(self.causal_lm.config.hidden_size)

    @property
    def vocab_size(self) -> int:
        return int(self.causal_lm.config.vocab_size)

    @property
    def max_model_len(self) -> int:
        return int(self.causal_lm.config.max_position_embeddings)

    def embed(self, input_ids_BT: Tensor) -> Tensor:
        return self.causal_lm.get_input_embeddings()(input_ids_BT)  # type: ignore[no-any-return]

    def forward(self, inputs_embeds_BTD: Tensor, past_key_values: Cache | None = None) -> Tensor:
        outputs = self.causal_lm.model(
            inputs_embeds=inputs_embeds_BTD, past_key_values=past_key_values, use_cache=past_key_values is not None
        )
        return outputs.last_hidden_state  # type: ignore[no-any-return]

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        return self.causal_lm.lm_head(hidden_BTD)  # type: ignore[no-any-return]

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype | None = torch.float32) -> Self:
        """None: as it is stored."""
        llm = cls.__new__(cls)
        super(CausalLlm, llm).__init__()
        llm.causal_lm = read_transformers(cls.causal_lm_class, folder, dtype)
        return llm

    def save(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        write_transformers(self.causal_lm, folder, dtype)
