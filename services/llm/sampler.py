"""Logits to the next token."""

import torch
from torch import Tensor

from services.llm.sampling import SamplingParams

SMALLEST = torch.finfo(torch.float32).tiny  # temperatures below it would be divided by as zero


class Sampler:
    """One sequence's: it draws from a generator of its own, on the CPU, so the same seed gives the same tokens whatever
    else runs."""

    def __init__(self, params: SamplingParams) -> None:
        self._params = params
        self._generator = torch.Generator().manual_seed(params.seed)

    def pick(self, logits_V: Tensor, banned_ids: list[int]) -> int:
        """Greedy at temperature 0; otherwise a draw after temperature, top-k and top-p, in that order."""
        logits_V = logits_V.float().cpu()
        logits_V[banned_ids] = -torch.inf
        if self._params.temperature == 0.0:
            return int(logits_V.argmax())
        scaled_V = (logits_V - logits_V.max()) / max(self._params.temperature, SMALLEST)
        probabilities_V = self._top_p(self._top_k(scaled_V)).softmax(-1)
        return int(torch.multinomial(probabilities_V, 1, generator=self._generator))

    def _top_k(self, logits_V: Tensor) -> Tensor:
        if not 0 < self._params.top_k < logits_V.numel():
            return logits_V
        lowest = logits_V.topk(self._params.top_k).values[-1]
        return logits_V.masked_fill(logits_V < lowest, -torch.inf)

    def _top_p(self, logits_V: Tensor) -> Tensor:
        """Keeps the likeliest tokens whose probabilities together reach top_p; the first one always."""
        if self._params.top_p == 1.0:
            return logits_V
        sorted_V, order_V = logits_V.sort(descending=True, stable=True)
        probabilities_V = sorted_V.softmax(-1)
        is_beyond_V = probabilities_V.cumsum(-1) - probabilities_V >= self._params.top_p
        return logits_V.masked_fill(is_beyond_V.scatter(0, order_V, is_beyond_V), -torch.inf)
