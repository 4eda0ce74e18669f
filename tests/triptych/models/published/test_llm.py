"""A language model's config that cannot be used is named; what only its publisher's machine has is left out."""

from pathlib import Path
from typing import Any

import pytest

from tests.triptych.models.published import folders
from triptych.errors import CheckpointError
from triptych.models.published.llm import empty_llm

MISTRAL: dict[str, Any] = {
    "model_type": "mistral",
    "vocab_size": 64,
    "tie_word_embeddings": False,
    **folders.LLM_SIZES,
}
WHERE = Path("mistral/config.json")
UNUSABLE: dict[str, tuple[dict[str, object], str]] = {
    "rope without its factor": ({"rope_scaling": {"type": "linear"}}, "factor"),
    "unknown rope": ({"rope_scaling": {"type": "foo", "factor": 2}}, "foo"),
    "rope that is no table": ({"rope_scaling": "linear"}, ""),
    "unknown activation": ({"hidden_act": "nonsense"}, "nonsense"),
    "negative size": ({"intermediate_size": -1}, ""),
    "no vocabulary": ({"vocab_size": None}, "vocab_size"),
    "quantized": ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantization_config is set"),
}


@pytest.mark.parametrize(("changes", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_what_cannot_be_used_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=rf"(?s)^mistral/config\.json: .*{message}"):
        empty_llm(MISTRAL | changes, WHERE)


@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation"])
def test_the_publishers_attention_is_not_ours(key: str) -> None:
    """flash_attention_2 is not even installed where there is no GPU."""
    found = empty_llm(MISTRAL | {key: "flash_attention_2"}, WHERE).causal_lm.config
    assert found._attn_implementation == empty_llm(MISTRAL, WHERE).causal_lm.config._attn_implementation
