"""CLIP's vision tower, read at a hidden layer: the eyes of LLaVA-1.5 and VARGPT."""

from torch import Tensor
from transformers import CLIPVisionModel

from triptych.models.encoders.tower import VisionTower


class ClipEncoder(VisionTower):
    """Patch features of hidden layer `feature_layer` (-2: the penultimate, LLaVA-1.5), no post-norm, no class token.

    Equals transformers' `CLIPVisionModel(...).hidden_states[feature_layer][:, 1:]`, but only runs the blocks it needs.
    """

    type_name = "clip_vision_model"
    vision_class = CLIPVisionModel

    def forward(self, pixel_values_BCHW: Tensor) -> Tensor:
        hidden_BND = self.vision.embeddings(pixel_values_BCHW)
        hidden_BND = self.vision.pre_layrnorm(hidden_BND)  # transformers' own spelling
        for block in self.blocks:
            hidden_BND = block(hidden_BND, attention_mask=None)
        return hidden_BND[:, 1:]  # type: ignore[no-any-return]
