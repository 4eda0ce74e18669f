"""LLaVA's projector: two linear layers with GELU between, per patch (GenLLaVA section 4.2)."""

from dataclasses import dataclass

from torch import Tensor, nn

from triptych.models.base import ComponentConfig, OwnFormat, Projector


class MlpProjector(OwnFormat, Projector):
    """Mirrors transformers' LlavaMultiModalProjector: exact GELU, biases. (B, N, input_size) to (B, N, hidden_size)."""

    type_name = "mlp"

    @dataclass(frozen=True, kw_only=True)
    class Config(ComponentConfig):
        input_size: int
        hidden_size: int

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.linear_1 = nn.Linear(config.input_size, config.hidden_size)
        self.act = nn.GELU()
        self.linear_2 = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, features_BND: Tensor) -> Tensor:
        return self.linear_2(self.act(self.linear_1(features_BND)))  # type: ignore[no-any-return]
