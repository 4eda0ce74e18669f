"""Everything behind LlmService: tokenizer, language model, and which tokens may come when."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor, nn
from transformers import Cache

from triptych.card import read_card
from triptych.models import LLMS
from triptych.models.base import Llm, read_class
from triptych.models.text import TextCodec
from triptych.prompts import ImageSlot, PromptTemplate, Segment, Special

ImagePolicy = Literal["allow", "forbid", "force"]


class LlmStage(nn.Module):
    """Segments to embeddings, embeddings to hidden states and logits; the loop around them is the engine's."""

    def __init__(self, llm: Llm, codec: TextCodec, template: PromptTemplate) -> None:
        super().__init__()
        self.llm: Llm = llm
        self.codec, self.template = codec, template
        self.eos_id = codec.special_id(template.eos_token)
        self.soi_id = codec.special_id("[SOI]")
        self.image_ids = [codec.special_id(token) for token in template.image_tokens]
        no_tokens = set(range(llm.vocab_size)) - set(codec.tokenizer.get_vocab().values())
        self._banned = sorted(no_tokens | set(codec.special_tokens.values()) - {self.eos_id, self.soi_id})

    @classmethod
    def load(
        cls, folder: Path, template: PromptTemplate | None = None, *, dtype: torch.dtype | None = torch.float32
    ) -> Self:
        """A transformers folder with its tokenizer; unless one is given, the template stands in the card's facts.

        dtype None: weights as they are stored.
        """
        template = template or PromptTemplate.from_dict(read_card(folder).facts["template"])
        llm = read_class(folder / "config.json", "model_type", LLMS).load(folder, dtype)
        return cls(llm, TextCodec.load(folder), template).eval().requires_grad_(False)

    def save(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        """Writes what `load` reads, but for the card: weights and tokenizer."""
        self.llm.save(folder, dtype)
        self.codec.save(folder)

    @property
    def img_ids(self) -> list[int]:
        """Ids of [IMG0] ... [IMGn-1]."""
        return self.image_ids[1:-1]

    def banned_ids(self, image_policy: ImagePolicy, num_images_left: int) -> list[int]:
        """Tokens the model may not sample: [IMG] and [EOI] only follow [SOI], by force; prompt tokens never come.
        Nor do rows that are there to fill a table up, and stand for no token."""
        closed = image_policy == "forbid" or num_images_left == 0
        return [*self._banned, self.soi_id] if closed else self._banned

    def embed_ids(self, ids: Sequence[int]) -> Tensor:
        """(1, T, D)."""
        device = next(self.llm.parameters()).device
        return self.llm.embed(torch.tensor([list(ids)], device=device))

    def embed(self, segments: Sequence[Segment], pictures: Sequence[Tensor]) -> Tensor:
        """The prompt as embeddings (1, T, D); `pictures[i]` (M, D) stands at ImageSlot(i)."""
        parts: list[Tensor] = []
        for segment in segments:
            if isinstance(segment, ImageSlot):
                parts.append(pictures[segment.index][None])
            elif isinstance(segment, Special):
                parts.append(self.embed_ids([self.codec.special_id(segment.token)]))
            elif ids := self.codec.encode(segment.text):
                parts.append(self.embed_ids(ids))
        return torch.cat([part.to(parts[0]) for part in parts], dim=1)

    def forward(self, inputs_embeds_BTD: Tensor, past_key_values: Cache | None = None) -> Tensor:
        """Hidden states (B, T, D) after the final norm."""
        return self.llm(inputs_embeds_BTD, past_key_values)  # type: ignore[no-any-return]

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """(B, T, V), float32."""
        return self.llm.logits(hidden_BTD).float()
