"""The same classes at the paper's sizes, on the meta device (no memory): counts, shapes and key names of published
checkpoints. SigLIP-L/16-384, Mistral-7B, Stable Diffusion 1.4 and GILL's mapper.
"""

from collections.abc import Iterator

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import MistralConfig, SiglipVisionConfig

from triptych.models.decoders.latent_diffusion import LatentDiffusion
from triptych.models.encoders.siglip import SiglipEncoder
from triptych.models.heads.query_transformer import QueryTransformer
from triptych.models.llms.mistral import MistralLlm
from triptych.models.projectors.mlp import MlpProjector

NUM_LAYERS = 24


@pytest.fixture(autouse=True)
def _meta() -> Iterator[None]:
    with torch.device("meta"):
        yield


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def siglip() -> SiglipEncoder:
    return SiglipEncoder(
        SiglipVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=NUM_LAYERS,
            num_attention_heads=16,
            image_size=384,
            patch_size=16,
        )
    )


def stable_diffusion() -> LatentDiffusion:
    unet = UNet2DConditionModel(
        sample_size=64,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        block_out_channels=(320, 640, 1280, 1280),
        layers_per_block=2,
        cross_attention_dim=768,
        attention_head_dim=8,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
    )
    return LatentDiffusion(unet, vae, {"_class_name": "PNDMScheduler"})


def test_siglip_large() -> None:
    encoder = siglip()
    found = shapes(encoder.vision)
    # 303.7 M up to the last norm, 12.6 M more in the pooling head.
    without_head = sum(p.numel() for key, p in encoder.vision.named_parameters() if not key.startswith("head."))
    assert (without_head, count(encoder)) == (303_688_704, 316_283_904)
    assert (encoder.embed_dim, encoder.num_patches) == (1024, 576)
    assert found["embeddings.patch_embedding.weight"] == (1024, 3, 16, 16)
    assert found["embeddings.patch_embedding.bias"] == (1024,)
    assert found["embeddings.position_embedding.weight"] == (576, 1024)
    for layer in range(NUM_LAYERS):
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            assert found[f"encoder.layers.{layer}.self_attn.{name}.weight"] == (1024, 1024)
            assert found[f"encoder.layers.{layer}.self_attn.{name}.bias"] == (1024,)
        assert found[f"encoder.layers.{layer}.mlp.fc1.weight"] == (4096, 1024)
    assert found["head.probe"] == (1, 1, 1024)
    assert found["head.attention.in_proj_weight"] == (3072, 1024)
    assert encoder.vision.config.hidden_act == "gelu_pytorch_tanh"
    assert encoder.vision.config.layer_norm_eps == 1e-6


def test_siglip_large_gives_576_features() -> None:
    assert siglip()(torch.empty(1, 3, 384, 384)).shape == (1, 576, 1024)


def test_mistral_7b() -> None:
    llm = MistralLlm(
        MistralConfig(
            vocab_size=32064,
            hidden_size=4096,
            intermediate_size=14336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
            max_position_embeddings=32768,
            rms_norm_eps=1e-5,
            sliding_window=None,
            tie_word_embeddings=False,
        )
    )
    found = shapes(llm.causal_lm)
    assert len(found) == 291
    assert count(llm) == 7_241_732_096 + 2 * 64 * 4096  # the published model, with 64 rows more at both ends
    assert (llm.hidden_size, llm.max_model_len) == (4096, 32768)
    assert found["model.embed_tokens.weight"] == found["lm_head.weight"] == (32064, 4096)
    assert found["model.norm.weight"] == (4096,)
    for layer in range(32):
        prefix = f"model.layers.{layer}"
        assert found[f"{prefix}.self_attn.q_proj.weight"] == found[f"{prefix}.self_attn.o_proj.weight"] == (4096, 4096)
        assert found[f"{prefix}.self_attn.k_proj.weight"] == found[f"{prefix}.self_attn.v_proj.weight"] == (1024, 4096)
        assert found[f"{prefix}.mlp.gate_proj.weight"] == found[f"{prefix}.mlp.up_proj.weight"] == (14336, 4096)
        assert found[f"{prefix}.mlp.down_proj.weight"] == (4096, 14336)
    assert not [key for key in found if key.endswith("bias")]


def test_projector() -> None:
    projector = MlpProjector(MlpProjector.Config(input_size=1024, hidden_size=4096))
    assert shapes(projector) == {
        "linear_1.weight": (4096, 1024),
        "linear_1.bias": (4096,),
        "linear_2.weight": (4096, 4096),
        "linear_2.bias": (4096,),
    }
    assert projector(torch.empty(1, 576, 1024)).shape == (1, 576, 4096)


def test_head_is_gill_s_mapper() -> None:
    head = QueryTransformer(QueryTransformer.Config(input_size=4096))
    found = shapes(head)
    assert count(head) == 31_958_784
    kinds = {"encoder": ("self_attn", 2), "decoder": ("multihead_attn", 3)}
    expected = {"fc.weight", "fc.bias", "model.weight", "model.bias", "query_embs"}
    for side, (attention, num_norms) in kinds.items():
        expected |= {f"tfm.{side}.norm.{end}" for end in ("weight", "bias")}
        for layer in range(4):
            names = [f"norm{n}" for n in range(1, num_norms + 1)] + ["linear1", "linear2"]
            for name in {"self_attn", attention}:
                names.append(f"{name}.out_proj")
                expected |= {f"tfm.{side}.layers.{layer}.{name}.in_proj_{end}" for end in ("weight", "bias")}
            expected |= {f"tfm.{side}.layers.{layer}.{name}.{end}" for name in names for end in ("weight", "bias")}
    assert set(found) == expected
    assert found["fc.weight"] == (512, 4096)
    assert found["query_embs"] == (1, 77, 512)
    assert found["model.weight"] == (768, 512)
    assert found["tfm.encoder.layers.0.self_attn.in_proj_weight"] == (1536, 512)
    assert found["tfm.decoder.layers.3.linear1.weight"] == (2048, 512)
    layer = head.tfm.encoder.layers[0]
    assert (layer.norm_first, layer.self_attn.num_heads, layer.dropout.p, layer.norm1.eps) == (True, 4, 0.0, 1e-5)


@pytest.mark.parametrize("num_img_tokens", [4, 8, 16])
def test_head_takes_any_number_of_tokens(num_img_tokens: int) -> None:
    head = QueryTransformer(QueryTransformer.Config(input_size=4096))
    states: Tensor = torch.empty(2, num_img_tokens, 4096)
    assert head(states, states).shape == (2, 77, 768)


def test_stable_diffusion_unet() -> None:
    decoder = stable_diffusion()
    found = shapes(decoder.unet)
    assert len(found) == 686
    assert count(decoder.unet) == 859_520_964
    assert found["conv_in.weight"] == (320, 4, 3, 3)
    assert found["time_embedding.linear_1.weight"] == (1280, 320)
    block = "down_blocks.1.attentions.0"
    assert found[f"{block}.proj_in.weight"] == (640, 640, 1, 1)  # a convolution: no use_linear_projection
    assert found[f"{block}.transformer_blocks.0.attn2.to_k.weight"] == (640, 768)
    assert found[f"{block}.transformer_blocks.0.ff.net.0.proj.weight"] == (5120, 640)
    assert f"{block}.transformer_blocks.0.attn1.to_q.bias" not in found
    assert decoder.unet.down_blocks[2].attentions[0].transformer_blocks[0].attn1.heads == 8
    assert (decoder.latent_shape, decoder.image_size) == ((4, 64, 64), 512)


def test_stable_diffusion_vae() -> None:
    decoder = stable_diffusion()
    found = shapes(decoder.vae)
    assert len(found) == 248
    assert count(decoder.vae) == 83_653_863
    assert found["quant_conv.weight"] == (8, 8, 1, 1)
    assert found["post_quant_conv.weight"] == (4, 4, 1, 1)
    assert found["encoder.mid_block.attentions.0.to_q.weight"] == (512, 512)
    assert decoder.vae.config.scaling_factor == 0.18215


def test_stable_diffusion_shapes() -> None:
    decoder = stable_diffusion()
    latents = torch.empty(1, 4, 64, 64)
    assert decoder(latents, torch.empty(1), torch.empty(1, 77, 768)).shape == (1, 4, 64, 64)
    assert decoder.decode(latents).shape == (1, 3, 512, 512)
