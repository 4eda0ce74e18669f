"""Segments to token ids and labels, and the tokenizer they need."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from services.trainer.data.samples import make_sample, told_in_words
from triptych.models.text import TextCodec
from triptych.prompts import ImageSlot, PromptTemplate, Segment, Special, Text

IGNORE = -100
PAD, IMAGE = "<pad>", "<image>"


def special_tokens(template: PromptTemplate) -> list[str]:
    """In the order they are added (docs/architecture.md)."""
    named = [template.bos_token, template.eos_token, PAD, IMAGE, "[T2I]", "[I2T]", *template.image_tokens]
    return list(dict.fromkeys(named))


def train_tokenizer(template: PromptTemplate, vocab_size: int, num_conversations: int, seed: int, folder: Path) -> int:
    """Byte-level BPE on the world's language, as a transformers tokenizer folder. Returns the vocabulary size."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special_tokens(template),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(template, num_conversations, seed), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=template.bos_token,
        eos_token=template.eos_token,
        pad_token=PAD,
        additional_special_tokens=[IMAGE, "[T2I]", "[I2T]", *template.image_tokens],
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(str(folder))
    return len(fast)


def _corpus(template: PromptTemplate, num_conversations: int, seed: int) -> Iterator[str]:
    rng = random.Random(seed)
    for _ in range(num_conversations):
        sample = make_sample("mixed", rng, "train", 4, 0.5)
        yield from (s.text for s in told_in_words(sample, template) if isinstance(s, Text))


@dataclass(frozen=True)
class Row:
    """One sequence: ids with `<image>` at every patch position, labels (-100 where not trained)."""

    ids: list[int]
    labels: list[int]


class RowMaker:
    """Lays segments out as ids and labels: only the assistant's side is trained, as LLaVA does."""

    def __init__(self, codec: TextCodec, num_image_tokens: int) -> None:
        self.codec, self.num_image_tokens = codec, num_image_tokens
        self.image_id = codec.special_id(IMAGE)

    def row(self, segments: Iterable[Segment]) -> Row:
        ids: list[int] = []
        labels: list[int] = []
        for segment in segments:
            if isinstance(segment, ImageSlot):
                new = [self.image_id] * self.num_image_tokens
            elif isinstance(segment, Special):
                new = [self.codec.special_id(segment.token)]
            else:
                new = self.codec.encode(segment.text)
            ids += new
            labels += new if segment.trained else [IGNORE] * len(new)
        return Row(ids, labels)


def pad_rows(rows: list[Row], length: int, pad_id: int) -> tuple[Tensor, Tensor]:
    """ids and labels, (B, length) each, padded on the right."""
    ids = torch.full((len(rows), length), pad_id)
    labels = torch.full((len(rows), length), IGNORE)
    for index, row in enumerate(rows):
        ids[index, : len(row.ids)] = torch.tensor(row.ids)
        labels[index, : len(row.ids)] = torch.tensor(row.labels)
    return ids, labels
