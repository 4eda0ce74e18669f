"""The tensors of published files at their full sizes, name by name, as their listings have them."""

from collections.abc import Iterable

Listing = dict[str, tuple[int, ...]]


def layer(name: str, *shape: int) -> Listing:
    """A weight with its bias."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def joined(parts: Iterable[Listing]) -> Listing:
    return {name: shape for part in parts for name, shape in part.items()}


def prefixed(prefix: str, listing: Listing) -> Listing:
    return {prefix + name: shape for name, shape in listing.items()}


def transformer_layers(number: int, width: int, mlp: int) -> Listing:
    """Of CLIP, its text encoder and SigLIP."""
    found: Listing = {}
    for index in range(number):
        name = f"encoder.layers.{index}"
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found |= layer(f"{name}.self_attn.{projection}", width, width)
        found |= layer(f"{name}.mlp.fc1", mlp, width) | layer(f"{name}.mlp.fc2", width, mlp)
        found |= layer(f"{name}.layer_norm1", width) | layer(f"{name}.layer_norm2", width)
    return found


def siglip_tower(width: int, mlp: int, number: int, patch: int, num_positions: int) -> Listing:
    return {
        **layer("embeddings.patch_embedding", width, 3, patch, patch),
        "embeddings.position_embedding.weight": (num_positions, width),
        **transformer_layers(number, width, mlp),
        **layer("post_layernorm", width),
        "head.probe": (1, 1, width),
        "head.attention.in_proj_weight": (3 * width, width),
        "head.attention.in_proj_bias": (3 * width,),
        **layer("head.attention.out_proj", width, width),
        **layer("head.layernorm", width),
        **layer("head.mlp.fc1", mlp, width),
        **layer("head.mlp.fc2", width, mlp),
    }


def clip_tower() -> Listing:
    """L/14 at 336 pixels."""
    return {
        "embeddings.class_embedding": (1024,),
        "embeddings.patch_embedding.weight": (1024, 3, 14, 14),
        "embeddings.position_embedding.weight": (577, 1024),
        **layer("pre_layrnorm", 1024),
        **transformer_layers(24, 1024, 4096),
        **layer("post_layernorm", 1024),
    }


def text_encoder() -> Listing:
    """Stable Diffusion 1.4's."""
    return {
        "embeddings.token_embedding.weight": (49408, 768),
        "embeddings.position_embedding.weight": (77, 768),
        **transformer_layers(12, 768, 3072),
        **layer("final_layer_norm", 768),
    }


def causal_lm(vocab: int, mlp: int, kv: int) -> Listing:
    """Mistral-7B and Vicuna-7B."""
    found: Listing = {"model.embed_tokens.weight": (vocab, 4096)}
    for index in range(32):
        name = f"model.layers.{index}"
        for projection, rows in (("q", 4096), ("k", kv), ("v", kv), ("o", 4096)):
            found[f"{name}.self_attn.{projection}_proj.weight"] = (rows, 4096)
        found[f"{name}.mlp.gate_proj.weight"] = found[f"{name}.mlp.up_proj.weight"] = (mlp, 4096)
        found[f"{name}.mlp.down_proj.weight"] = (4096, mlp)
        found[f"{name}.input_layernorm.weight"] = found[f"{name}.post_attention_layernorm.weight"] = (4096,)
    return found | {"model.norm.weight": (4096,), "lm_head.weight": (vocab, 4096)}


def llava_projector() -> Listing:
    return layer("linear_1", 4096, 1024) | layer("linear_2", 4096, 4096)


def resnet(name: str, ins: int, outs: int, time: int = 0) -> Listing:
    return {
        **layer(f"{name}.norm1", ins),
        **layer(f"{name}.conv1", outs, ins, 3, 3),
        **(layer(f"{name}.time_emb_proj", outs, time) if time else {}),
        **layer(f"{name}.norm2", outs),
        **layer(f"{name}.conv2", outs, outs, 3, 3),
        **(layer(f"{name}.conv_shortcut", outs, ins, 1, 1) if ins != outs else {}),
    }


def unet_attention(name: str, width: int) -> Listing:
    block = f"{name}.transformer_blocks.0"
    found = layer(f"{name}.norm", width) | layer(f"{name}.proj_in", width, width, 1, 1)
    for attention, context in (("attn1", width), ("attn2", 768)):
        found[f"{block}.{attention}.to_q.weight"] = (width, width)
        found[f"{block}.{attention}.to_k.weight"] = found[f"{block}.{attention}.to_v.weight"] = (width, context)
        found |= layer(f"{block}.{attention}.to_out.0", width, width)
    found |= joined(layer(f"{block}.norm{number}", width) for number in (1, 2, 3))
    found |= layer(f"{block}.ff.net.0.proj", 8 * width, width) | layer(f"{block}.ff.net.2", width, 4 * width)
    return found | layer(f"{name}.proj_out", width, width, 1, 1)


def unet() -> Listing:
    """Stable Diffusion 1.4's."""
    widths, time = (320, 640, 1280, 1280), 1280
    found = layer("conv_in", 320, 4, 3, 3) | layer("conv_norm_out", 320) | layer("conv_out", 4, 320, 3, 3)
    found |= layer("time_embedding.linear_1", time, 320) | layer("time_embedding.linear_2", time, time)
    skips, width = [320], 320
    for index, outs in enumerate(widths):
        name = f"down_blocks.{index}"
        for number in range(2):
            found |= resnet(f"{name}.resnets.{number}", width, outs, time)
            found |= unet_attention(f"{name}.attentions.{number}", outs) if index < 3 else {}
            width = outs
            skips.append(width)
        if index < 3:
            found |= layer(f"{name}.downsamplers.0.conv", outs, outs, 3, 3)
            skips.append(width)
    found |= joined(resnet(f"mid_block.resnets.{number}", 1280, 1280, time) for number in range(2))
    found |= unet_attention("mid_block.attentions.0", 1280)
    for index, outs in enumerate(reversed(widths)):
        name = f"up_blocks.{index}"
        for number in range(3):
            found |= resnet(f"{name}.resnets.{number}", width + skips.pop(), outs, time)
            found |= unet_attention(f"{name}.attentions.{number}", outs) if index > 0 else {}
            width = outs
        found |= layer(f"{name}.upsamplers.0.conv", outs, outs, 3, 3) if index < 3 else {}
    return found


def vae(*, is_old: bool) -> Listing:
    """Stable Diffusion 1.4's; `is_old` with the names that its file was published with."""
    widths = (128, 256, 512, 512)
    found = layer("quant_conv", 8, 8, 1, 1) | layer("post_quant_conv", 4, 4, 1, 1)
    found |= layer("encoder.conv_in", 128, 3, 3, 3) | layer("encoder.conv_out", 8, 512, 3, 3)
    found |= layer("decoder.conv_in", 512, 4, 3, 3) | layer("decoder.conv_out", 3, 128, 3, 3)
    found |= layer("encoder.conv_norm_out", 512) | layer("decoder.conv_norm_out", 128)
    for side, blocks, number, order in (
        ("encoder", "down", 2, widths),
        ("decoder", "up", 3, tuple(reversed(widths))),
    ):
        width = order[0]
        for index, outs in enumerate(order):
            for resnet_index in range(number):
                found |= resnet(f"{side}.{blocks}_blocks.{index}.resnets.{resnet_index}", width, outs)
                width = outs
            if index < 3:
                found |= layer(f"{side}.{blocks}_blocks.{index}.{blocks}samplers.0.conv", outs, outs, 3, 3)
        found |= joined(resnet(f"{side}.mid_block.resnets.{index}", 512, 512) for index in range(2))
        attention = f"{side}.mid_block.attentions.0"
        found |= layer(f"{attention}.group_norm", 512)
        for name in ("query", "key", "value", "proj_attn") if is_old else ("to_q", "to_k", "to_v", "to_out.0"):
            found |= layer(f"{attention}.{name}", 512, 512)
    return found
