"""The whole model in one process: the reference the services are tested against, and the trainer's evaluator."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import DynamicCache

from triptych.errors import FailedPrecondition
from triptych.models.decoder_stage import DecoderStage
from triptych.models.encoder_stage import EncoderStage
from triptych.models.llm_stage import ImagePolicy, LlmStage
from triptych.prompts import Message, Task

POLICIES: dict[Task, ImagePolicy] = {"auto": "allow", "understand": "forbid", "generate": "force", "edit": "force"}


@dataclass(frozen=True)
class Hidden:
    """What the LLM hands the decoder for one picture: both (1, K, D)."""

    hidden_states: Tensor
    embeddings: Tensor


@dataclass
class Reply:
    """A turn of the assistant: text, token ids with the special ones, pictures (H, W, 3) in order."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    pictures: list[NDArray[np.uint8]] = field(default_factory=list)
    finish_reason: str = "length"


class UnifiedModel:
    """Encoder, LLM and decoder stages called one after another, one request at a time, greedily."""

    def __init__(self, encoder: EncoderStage, llm: LlmStage, decoder: DecoderStage | None) -> None:
        self.encoder, self.llm, self.decoder = encoder, llm, decoder

    @classmethod
    def load(cls, checkpoint: Path) -> Self:
        """A checkpoint folder: `encoder/ llm/ decoder/`, the last of which a model that only looks does not have."""
        decoder = checkpoint / "decoder"
        return cls(
            EncoderStage.load(checkpoint / "encoder"),
            LlmStage.load(checkpoint / "llm"),
            DecoderStage.load(decoder) if decoder.exists() else None,
        )

    @torch.no_grad()
    def respond(
        self,
        messages: Sequence[Message],
        tasks: Sequence[Task],
        images: Sequence[Image.Image],
        *,
        seed: int = 0,
        num_inference_steps: int = 25,
        guidance_scale: float = 3.0,
        max_tokens: int = 64,
    ) -> Reply:
        """Answers the last user message. `images[i]` is the conversation's Picture(i).

        Raises FailedPrecondition when a picture is asked for that there is no decoder to draw.
        """
        policy = self._policy(tasks[-1])
        embeddings = [self.encoder(self.encoder.preprocess([image]))[0] for image in images]
        segments = self.llm.template.segments(list(messages), list(tasks))
        prompt = self.llm.embed(segments, embeddings)
        reply, handed_over = generate(self.llm, prompt, policy, max_tokens)
        for hidden in handed_over:
            assert self.decoder is not None
            conditioning = self.decoder.condition(hidden.hidden_states, hidden.embeddings)
            denoising = self.decoder.start(conditioning, seed, num_inference_steps, guidance_scale)
            while not denoising.is_finished:
                self.decoder.step([denoising])
            reply.pictures.append(self.decoder.picture(denoising))
        return reply

    def _policy(self, task: Task) -> ImagePolicy:
        policy = POLICIES[task]
        if self.decoder is None and policy == "force":
            raise FailedPrecondition("the checkpoint has no decoder: it cannot draw")
        return policy if self.decoder else "forbid"


def generate(
    stage: LlmStage, prompt: Tensor, policy: ImagePolicy, max_tokens: int, max_images: int = 4
) -> tuple[Reply, list[Hidden]]:
    """Greedy decoding. When [SOI] comes (or is forced first), [SOI][IMG0..n-1][EOI] run as one step of the LLM."""
    cache = DynamicCache()
    reply, handed_over = Reply(), list[Hidden]()
    last = stage(prompt, cache)[:, -1:]
    text_ids: list[int] = []
    token = stage.soi_id if policy == "force" else _pick(stage, last, policy, max_images)
    while token != stage.eos_id and len(text_ids) < max_tokens:
        if token == stage.soi_id:
            embeddings = stage.embed_ids(stage.image_ids)
            hidden = stage(embeddings, cache)
            handed_over.append(Hidden(hidden[:, 1:-1], embeddings[:, 1:-1]))
            reply.token_ids += stage.image_ids
            last = hidden[:, -1:]
        else:
            text_ids.append(token)
            reply.token_ids.append(token)
            last = stage(stage.embed_ids([token]), cache)
        token = _pick(stage, last, policy, max_images - len(handed_over))
    if token == stage.eos_id:
        reply.token_ids.append(token)
        reply.finish_reason = "stop"
    reply.text = stage.codec.decode(text_ids).strip()
    return reply, handed_over


def _pick(stage: LlmStage, last_hidden: Tensor, policy: ImagePolicy, num_images_left: int) -> int:
    logits = stage.logits(last_hidden)[0, -1]
    logits[stage.banned_ids(policy, num_images_left)] = -torch.inf
    return int(logits.argmax())
