"""A published language model, with our special tokens added: Mistral, or Llama as Vicuna is one."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from triptych.errors import CheckpointError
from triptych.models import LLMS
from triptych.models.json_file import read_json
from triptych.models.llm_stage import LlmStage
from triptych.models.llms.causal import CausalLlm
from triptych.models.published.config import naming, parse_config
from triptych.models.published.keys import PLAIN, match
from triptych.models.published.shards import write_shards
from triptych.models.published.stored import StoredTensor, read_stored
from triptych.models.published.streamed import build_empty, stream
from triptych.models.published.tokens import GrownTokenizer, grown, num_rows, read_tokenizer
from triptych.prompts import PromptTemplate

TABLES: Final = ("model.embed_tokens.weight", "lm_head.weight")


@dataclass(frozen=True)
class PublishedLlm:
    """An empty model with rows for the new tokens, and the tensors that belong in it."""

    llm: CausalLlm
    tokenizer: GrownTokenizer
    template: PromptTemplate
    tensors: Mapping[str, StoredTensor]

    @classmethod
    def open(cls, folder: Path, template: PromptTemplate, seed: int) -> Self:
        """Reads configs, tokenizer and headers. Raises CheckpointError naming the file, or the keys that do not fit."""
        path = folder / "config.json"
        llm = empty_llm(read_json(path), path)
        tensors = match(read_stored(folder, ("model", "pytorch_model")), llm.causal_lm, PLAIN, folder)
        return cls.grow(llm, tensors, folder, template, seed)

    @classmethod
    def grow(
        cls, llm: CausalLlm, tensors: Mapping[str, StoredTensor], folder: Path, template: PromptTemplate, seed: int
    ) -> Self:
        """`llm` and its `tensors` as published, with rows for the new tokens of the tokenizer in `folder`."""
        tokenizer = read_tokenizer(folder, template)
        config = llm.causal_lm.config
        rows = num_rows(tokenizer, config.vocab_size, folder)
        config.vocab_size = rows
        config.pad_token_id = tokenizer.codec.tokenizer.pad_token_id
        llm_class = type(llm)
        new = {key: grown(tensors[key], tokenizer.num_known, rows, seed + number) for number, key in enumerate(TABLES)}
        return cls(build_empty(lambda: llm_class(config)), tokenizer, template, {**tensors, **new})

    def write(self, folder: Path) -> LlmStage:
        """Writes a component folder but for card and probes; returns the stage, which reads it as needed."""
        folder.mkdir(parents=True)
        self.llm.causal_lm.config.save_pretrained(str(folder))
        self.tokenizer.codec.save(folder)
        write_shards(folder, "model", self.tensors)
        stream(self.llm.causal_lm, read_stored(folder, ("model",)))
        return LlmStage(self.llm, self.tokenizer.codec, self.template).eval().requires_grad_(False)


def empty_llm(values: dict[str, Any], where: Path) -> CausalLlm:
    """The LLM that a config names, without weights. Raises CheckpointError naming file and value."""
    try:
        llm_class: type[CausalLlm] = LLMS.load(str(values.get("model_type")))
    except ValueError as error:
        raise CheckpointError(f"{where}: model_type of the language model: {error}") from error
    config = parse_config(llm_class.causal_lm_class, values, where)
    if config.tie_word_embeddings:
        raise CheckpointError(f"{where}: tie_word_embeddings is true, new tokens need rows of their own at both ends")
    with naming(where):
        return build_empty(lambda: llm_class(config))
