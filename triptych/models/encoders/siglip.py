"""SigLIP's vision tower, read at a hidden layer."""

from torch import Tensor
from transformers import SiglipVisionModel

from triptych.models.encoders.tower import VisionTower


class SiglipEncoder(VisionTower):
    """Patch features of hidden layer `feature_layer` (-2: the penultimate, GenLLaVA section 4.2), no post-norm.

    Equals transformers' `SiglipVisionModel(...).hidden_states[feature_layer]`, but only runs the blocks it needs.
    """

    type_name = "siglip_vision_model"
    vision_class = SiglipVisionModel

    def forward(self, pixel_values_BCHW: Tensor) -> Tensor:
        hidden_BND = self.vision.embeddings(pixel_values_BCHW)
        for block in self.blocks:
            hidden_BND = block(hidden_BND, attention_mask=None)
        return hidden_BND  # type: ignore[no-any-return]
