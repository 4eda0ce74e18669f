"""GenLLaVA's generation head: an encoder-decoder transformer over the `[IMG]` tokens with learned queries."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from triptych.models.base import ComponentConfig, GenerationHead, OwnFormat


class QueryTransformer(OwnFormat, GenerationHead):
    """Hidden states plus embeddings of the `[IMG]` tokens in, conditioning for cross-attention out.

    GenLLaVA section 3.2 (4 layers, 77 queries of 768 for Stable Diffusion 1.4), with the layers and key names of GILL's
    mapper, which MGIE's head equals: pre-norm, ReLU, no masks, no positions, final norms. All queries are answered in
    parallel; the paper's eq. (2) writes them one after another, which no public implementation does.
    """

    type_name = "query_transformer"

    @dataclass(frozen=True, kw_only=True)
    class Config(ComponentConfig):
        input_size: int
        output_size: int = 768
        num_queries: int = 77
        hidden_size: int = 512
        num_heads: int = 4
        num_layers: int = 4
        intermediate_size: int = 2048

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.fc = nn.Linear(config.input_size, config.hidden_size)
        layer: dict[str, Any] = {
            "d_model": config.hidden_size,
            "nhead": config.num_heads,
            "dim_feedforward": config.intermediate_size,
            "dropout": 0.0,
            "batch_first": True,
            "norm_first": True,
        }
        # Built apart only to say that rows have no padding; nn.Transformer itself would warn about it.
        encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(**layer),
            config.num_layers,
            nn.LayerNorm(config.hidden_size),
            enable_nested_tensor=False,
        )
        self.tfm = nn.Transformer(**layer, num_decoder_layers=config.num_layers, custom_encoder=encoder)
        self.query_embs = nn.Parameter(torch.randn(1, config.num_queries, config.hidden_size))
        self.model = nn.Linear(config.hidden_size, config.output_size)

    def forward(self, hidden_BKD: Tensor, embeddings_BKD: Tensor) -> Tensor:
        """(B, K, input_size) twice to (B, num_queries, output_size). K is free: no weight depends on it."""
        x = self.fc(hidden_BKD + embeddings_BKD)
        queries = self.query_embs.expand(x.shape[0], -1, -1)
        return self.model(self.tfm(x, queries))  # type: ignore[no-any-return]
