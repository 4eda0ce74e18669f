"""A published tokenizer with our special tokens behind its own, and rows for them in the model's tables."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import AddedToken, Tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from triptych.errors import CheckpointError
from triptych.models.json_file import read_json
from triptych.models.published.stored import StoredTensor
from triptych.models.text import TextCodec
from triptych.prompts import TASK_TOKENS, PromptTemplate

PAD, IMAGE = "<pad>", "<image>"
ROW_MULTIPLE: Final = 64  # of rows, as matrix units like them
SPREAD: Final = 0.1  # of new rows around the mean of the old ones, in the old ones' standard deviations
NAMED: Final = ("bos_token", "eos_token", "unk_token", "pad_token")


@dataclass(frozen=True)
class GrownTokenizer:
    """`num_known` tokens are the published ones, the rest are ours."""

    codec: TextCodec
    num_known: int

    @property
    def num_tokens(self) -> int:
        return len(self.codec.tokenizer)


def read_tokenizer(folder: Path, template: PromptTemplate) -> GrownTokenizer:
    """Adds what is not there yet of: padding, `<image>` (a placeholder, never embedded), task tokens, [SOI] to [EOI].

    `template` names BOS and EOS; the folder's own must be the same. Raises CheckpointError naming the file.
    """
    path = folder / "tokenizer.json"
    config = read_json(folder / "tokenizer_config.json")
    values = read_json(path)
    named = {key: token for key in NAMED if (token := _content(config.get(key))) is not None}
    for key, wanted in (("bos_token", template.bos_token), ("eos_token", template.eos_token)):
        if named.get(key) != wanted:
            raise CheckpointError(
                f"{folder / 'tokenizer_config.json'}: {key} is {named.get(key)!r}, must be {wanted!r}"
            )
    pad = named.setdefault("pad_token", PAD)
    ours = [pad, IMAGE, *sorted(set(TASK_TOKENS.values()), reverse=True), *template.image_tokens]
    try:
        published = [token["content"] for token in values.get("added_tokens", ()) if token.get("special")]
        backend = Tokenizer.from_str(json.dumps(_without_prefix(values)))
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise CheckpointError(f"{path}: {error}") from error
    num_known = backend.get_vocab_size()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ours])
    special = [token for token in dict.fromkeys([*published, *ours]) if token not in named.values()]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, additional_special_tokens=special, clean_up_tokenization_spaces=False, **named
    )
    return GrownTokenizer(TextCodec(tokenizer), num_known)


def num_rows(tokenizer: GrownTokenizer, num_published: int, where: object) -> int:
    """Of the tables: the published number where that is enough. Raises CheckpointError when it never was."""
    if tokenizer.num_known > num_published:
        raise CheckpointError(f"{where}: {tokenizer.num_known} tokens, but only {num_published} rows of embeddings")
    needed = -(-tokenizer.num_tokens // ROW_MULTIPLE) * ROW_MULTIPLE
    return num_published if tokenizer.num_tokens <= num_published else needed


def grown(table: StoredTensor, num_known: int, num_rows: int, seed: int) -> StoredTensor:
    """A table (V, D) as one of (num_rows, D): the published tokens' rows, and new ones drawn around their mean.

    At the mean, a new token is never likelier than the likeliest published one; a little apart, the new ones differ.
    """
    shape = (num_rows, table.shape[1])
    return StoredTensor(table.dtype, shape, lambda: _grown(table.read(), num_known, num_rows, seed))


def _grown(rows: Tensor, num_known: int, num_rows: int, seed: int) -> Tensor:
    known = rows[:num_known]
    std, mean = torch.std_mean(known.float(), dim=0)
    noise = torch.randn(num_rows - num_known, rows.shape[1], generator=torch.Generator().manual_seed(seed))
    return torch.cat([known, (mean + SPREAD * std * noise).to(rows.dtype)])


def _without_prefix(values: dict[str, Any]) -> dict[str, Any]:
    """Llama's and Mistral's tokenizers put a space in front of every text they are given. Our prompts come in pieces,
    and the template writes the spaces: with this one left out, pieces that begin with theirs have the whole's ids."""
    values = {**values}
    normalizer = values.get("normalizer") or {}
    parts = normalizer.get("normalizers", [normalizer] if normalizer else [])
    if any(part["type"] == "Prepend" for part in parts):
        kept = [part for part in parts if part["type"] != "Prepend"]
        values["normalizer"] = {"type": "Sequence", "normalizers": kept} if kept else None
    splitter = values.get("pre_tokenizer") or {}
    if splitter.get("type") == "Metaspace":
        metaspace = {key: value for key, value in splitter.items() if key not in ("add_prefix_space", "str_rep")}
        values["pre_tokenizer"] = {**metaspace, "prepend_scheme": "never"}
    return values


def _content(token: object) -> str | None:
    """Older files spell a token out as an object."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None
