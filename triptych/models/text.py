"""Text to token ids and back: plain text never becomes a special token, whatever it spells."""

from functools import lru_cache
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from triptych.errors import CheckpointError, InvalidArgument
from triptych.models.json_file import read_json

MAX_KEPT_CHARS = 512  # what templates and data repeat is short; what users write is not kept for long


class TextCodec:
    """A transformers tokenizer, used the one way training and serving share."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._special = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
        self._encode_short = lru_cache(maxsize=4096)(self._encode)

    @classmethod
    def load(cls, folder: Path) -> "TextCodec":
        """Raises CheckpointError naming the file that is missing or broken."""
        for name in ("tokenizer_config.json", "tokenizer.json"):
            read_json(folder / name)
        try:
            return cls(AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False))
        except (KeyError, OSError, TypeError, ValueError) as error:
            raise CheckpointError(f"{folder}: {error}") from error

    def save(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(str(folder))

    @property
    def special_tokens(self) -> dict[str, int]:
        return dict(self._special)

    def special_id(self, token: str) -> int:
        """Raises InvalidArgument naming the token when the vocabulary has no such special token."""
        if token not in self._special:
            raise InvalidArgument(f"special token {token!r}: not one of {sorted(self._special)}")
        return self._special[token]

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, nothing added in front or behind."""
        encode = self._encode_short if len(text) <= MAX_KEPT_CHARS else self._encode
        return list(encode(text))

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))

    def decode(self, ids: list[int]) -> str:
        """Text of ids, special tokens left out. Bytes that are no whole character yet become U+FFFD."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))
