"""The tensors of the LLM service: weights, KV caches, and one step of one sequence. Runs on the worker thread."""

from collections.abc import Sequence as Pieces
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from services.llm.sampler import Sampler
from services.llm.sequence import DecodeToken, DrawImage, Prefill, Sequence, Vocabulary
from triptych.card import Card
from triptych.errors import InvalidArgument
from triptych.models.llm_stage import LlmStage
from triptych.models.placement import DTYPES, Placement
from triptych.models.probes import llm_probe
from triptych.prompts import Special, Text
from triptych.serving.probes import check_probes


@dataclass(frozen=True)
class TokenIds:
    """Ids as they are, special ones included."""

    ids: tuple[int, ...]


@dataclass(frozen=True)
class Embeddings:
    """(T, D) in the LLM's input space."""

    values: NDArray[np.float32]


Piece = Text | Special | TokenIds | Embeddings


@dataclass(frozen=True)
class Output:
    """Of one step: how many tokens ran, which one comes next, and what the decoder needs if a picture was drawn."""

    num_run: int
    next_id: int
    hidden_states: NDArray[np.float32] | None = None  # (K, D), after the final norm
    embeddings: NDArray[np.float32] | None = None  # (K, D)


@dataclass(frozen=True)
class _Held:
    """What a running sequence keeps here."""

    cache: DynamicCache
    sampler: Sampler


class LlmRunner:
    """Each sequence runs in passes of its own, over a cache of its own."""

    def __init__(self, stage: LlmStage, placement: Placement, max_model_len: int) -> None:
        self._stage = placement.place(stage)
        self._placement = placement
        self._held: dict[Sequence, _Held] = {}
        self._longest_token = max(len(token) for token in stage.codec.tokenizer.get_vocab())
        self.vocabulary = Vocabulary(stage.eos_id, stage.soi_id, tuple(stage.image_ids), max_model_len)
        self.vocabulary_size = len(stage.codec.tokenizer)

    @classmethod
    def load(cls, folder: Path, placement: Placement, max_model_len: int) -> Self:
        """Raises CheckpointError naming what is missing or wrong in `folder`."""
        return cls(LlmStage.load(folder, dtype=DTYPES[placement.dtype]), placement, max_model_len)

    @property
    def num_held(self) -> int:
        """Sequences with a cache."""
        return len(self._held)

    def check(self, card: Card, folder: Path) -> float:
        """The worst cosine over the golden probes. Raises ProbeError when one falls short."""
        return check_probes(card, folder, lambda name, inputs: llm_probe(self._stage, name, inputs))

    def decode(self, token_ids: list[int]) -> str:
        """Text of ids. Not while a step runs: the tokenizer is not safe to share."""
        return self._stage.codec.decode(token_ids)

    def free(self, sequence: Sequence) -> None:
        """Drops its cache; nothing happens when it has none."""
        self._held.pop(sequence, None)

    @torch.inference_mode()
    def run(self, sequence: Sequence) -> Output:
        """The sequence's next step. Raises InvalidArgument for a prompt that is empty or too long."""
        match sequence.step:
            case Prefill():
                embeddings = self._prompt(sequence)
                self._held[sequence] = _Held(DynamicCache(), Sampler(sequence.sampling))
            case DecodeToken(token_id):
                embeddings = self._stage.embed_ids([token_id])
            case DrawImage():
                embeddings = self._stage.embed_ids(self._stage.image_ids)
        held = self._held[sequence]
        hidden = self._stage(embeddings, held.cache)
        next_id = self._next_id(sequence, held.sampler, hidden)
        if not isinstance(sequence.step, DrawImage):
            return Output(hidden.shape[1], next_id)
        return Output(hidden.shape[1], next_id, _array(hidden[0, 1:-1]), _array(embeddings[0, 1:-1]))

    def _next_id(self, sequence: Sequence, sampler: Sampler, hidden_BTD: Tensor) -> int:
        if sequence.forced_id is not None:
            return sequence.forced_id
        banned_ids = self._stage.banned_ids(sequence.policy, sequence.num_images_left)
        return sampler.pick(self._stage.logits(hidden_BTD[:, -1:])[0, -1], banned_ids)

    def _prompt(self, sequence: Sequence) -> Tensor:
        """(1, T, D). Counted before anything is embedded."""
        pieces = [self._tokenized(piece) for piece in sequence.prompt]
        num_tokens = sum(len(piece.ids) if isinstance(piece, TokenIds) else len(piece.values) for piece in pieces)
        limit = self.vocabulary.max_model_len
        if num_tokens == 0:
            raise InvalidArgument("prompt.segments hold 0 tokens, must be at least 1")
        if num_tokens > limit:
            raise InvalidArgument(f"prompt.segments hold {num_tokens} tokens, must be at most {limit}")
        num_image_ids = len(self.vocabulary.image_ids)
        if sequence.forced_id is not None and num_tokens + num_image_ids > limit:
            raise InvalidArgument(
                f"prompt.segments hold {num_tokens} tokens and the image another {num_image_ids}, "
                f"together they must be at most {limit}"
            )
        return torch.cat(self._embedded(pieces), dim=1)

    def _tokenized(self, piece: Piece) -> TokenIds | Embeddings:
        if isinstance(piece, TokenIds | Embeddings):
            return piece
        if isinstance(piece, Special):
            return TokenIds((self._stage.codec.special_id(piece.token),))
        longest = self.vocabulary.max_model_len * self._longest_token
        if len(piece.text) > longest:  # no need to tokenize it to know
            raise InvalidArgument(f"a prompt segment has {len(piece.text)} characters, must be at most {longest}")
        return TokenIds(tuple(self._stage.codec.encode(piece.text)))

    def _embedded(self, pieces: Pieces[TokenIds | Embeddings]) -> list[Tensor]:
        dtype, device = DTYPES[self._placement.dtype], self._placement.device
        return [
            torch.from_numpy(piece.values)[None].to(device, dtype)
            if isinstance(piece, Embeddings)
            else self._stage.embed_ids(piece.ids)
            for piece in pieces
            if isinstance(piece, Embeddings) or piece.ids
        ]


def _array(values: Tensor) -> NDArray[np.float32]:
    return values.float().cpu().numpy()
