"""Golden probes: a few inputs with the outputs this component gave when it was published.

The trainer writes them, every service recomputes them on its own device before it serves. Each part has probes of its
own, so that none hides behind another: the one with the lowest cosine decides. Inputs are chosen where a small change
shows: pixel values and schedules as phases, which a shift or a scale turns; logits and pixels around their mean.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from triptych.models.decoder_stage import DecoderStage
from triptych.models.embedder import encoder_probe
from triptych.models.encoder_stage import EncoderStage
from triptych.models.llm_stage import LlmStage
from triptych.models.probe_values import Array, Inputs, phases, picture, positions, thin

Run = Callable[[str, Inputs], Array]

PROBES_FILE: Final = "probes.safetensors"
NUM_INPUT_VALUES: Final = 4096  # of one block of embeddings or hidden states
PICTURE_SIZES: Final = ((64, 64), (96, 40), (33, 57), (96, 112))  # height, width
TEXT: Final = "USER: Where is the small red cube?\nLeft of 2 blue ones; naïve <s> [SOI] 日本 ASSISTANT:"
NUM_SCHEDULE_STEPS: Final = 7


def llm_probe(stage: LlmStage, name: str, inputs: Inputs) -> Array:
    """`text`: the tokenizer. `hidden`, `logits`: from token ids. `embeddings`: hidden states behind ids, a block of
    embeddings (T, D) and the ids again."""
    if name == "text":
        return phases(np.array(stage.codec.encode(inputs["text"].tobytes().decode()), np.float32))
    ids = stage.embed_ids(inputs["ids"].tolist())
    if name == "embeddings":
        return thin(_array(_no_grad(stage, torch.cat([ids, _tensor(inputs["embeddings"], stage), ids], dim=1))))
    hidden = _no_grad(stage, ids)
    if name == "hidden":
        return thin(_array(hidden))
    logits = _array(stage.logits(hidden[:, -1:]))
    return thin(logits - logits.mean())


def decoder_probe(stage: DecoderStage, name: str, inputs: Inputs) -> Array:
    """`conditioning`: the head. `noise-*`: the UNet at a timestep, behind the head. `null`: guidance's other end.
    `schedule`: the noise schedule alone. `pixels`: the VAE."""
    if name == "null":
        return _array(stage.null_conditioning).ravel()[inputs["positions"]]
    if name == "schedule":
        return _schedule(stage, int(inputs["seed"][0]), int(inputs["num_inference_steps"][0]))
    if name == "pixels":
        pixels = stage.decoder.decode(_latents(stage, int(inputs["seed"][0])))
        return thin(_array(pixels) - np.float32(0.5))
    conditioning = stage.condition(_tensor(inputs["hidden_states"], stage), _tensor(inputs["embeddings"], stage))
    if name == "conditioning":
        return thin(_array(conditioning))
    timesteps = torch.from_numpy(inputs["timestep"]).to(conditioning.device)
    return thin(_array(_no_grad(stage.decoder, _latents(stage, int(inputs["seed"][0])), timesteps, conditioning)))


def make_encoder_probes(stage: EncoderStage) -> dict[str, Array]:
    """The tensors of probes.safetensors."""
    inputs: dict[str, Inputs] = {}
    for index, (height, width) in enumerate(PICTURE_SIZES):
        inputs[f"pixels-{index}"] = inputs[f"embeddings-{index}"] = {"picture": picture(height, width, index)}
    return _answered(inputs, lambda name, values: encoder_probe(stage, name, values))


def make_llm_probes(stage: LlmStage) -> dict[str, Array]:
    """The tensors of probes.safetensors."""
    ids = {"ids": (np.arange(24, dtype=np.int64) * 97 + 13) % len(stage.codec.tokenizer)}
    embeddings = _array(stage.embed_ids(ids["ids"].tolist()))
    block = _block(embeddings.shape[-1], 16, seed=0) * embeddings.std()
    inputs: dict[str, Inputs] = {
        "text": {"text": np.frombuffer(TEXT.encode(), np.uint8)},
        "hidden": ids,
        "logits": ids,
        "embeddings": {**ids, "embeddings": block},
    }
    return _answered(inputs, lambda name, values: llm_probe(stage, name, values))


def make_decoder_probes(stage: DecoderStage, num_img_tokens: int, hidden_size: int) -> dict[str, Array]:
    """The tensors of probes.safetensors; the head reads (num_img_tokens, hidden_size)."""
    handed_over: dict[str, Array] = {
        "hidden_states": _block(hidden_size, num_img_tokens, seed=1),
        "embeddings": _block(hidden_size, num_img_tokens, seed=2) / 10,
    }
    seed: dict[str, Array] = {"seed": np.array([3])}
    num_timesteps = stage.decoder.noise_scheduler().config.num_train_timesteps
    inputs: dict[str, Inputs] = {
        "conditioning": handed_over,
        "null": {"positions": positions(stage.null_conditioning.numel())},
        "schedule": {**seed, "num_inference_steps": np.array([NUM_SCHEDULE_STEPS])},
        "pixels": seed,
    }
    for timestep in (num_timesteps // 20, num_timesteps // 2, num_timesteps - 1):
        inputs[f"noise-{timestep}"] = {**handed_over, **seed, "timestep": np.array([timestep])}
    return _answered(inputs, lambda name, values: decoder_probe(stage, name, values))


def _answered(inputs: Mapping[str, Inputs], run: Run) -> dict[str, Array]:
    """Inputs and outputs by the names they have in the file."""
    tensors: dict[str, Array] = {}
    for name, values in inputs.items():
        tensors[f"{name}/out"] = run(name, values).copy()
        tensors |= {f"{name}/in/{argument}": value.copy() for argument, value in values.items()}
    return tensors


def _schedule(stage: DecoderStage, seed: int, num_inference_steps: int) -> Array:
    """The noise scheduler's walk when the UNet always predicts the same, on the CPU: no weights take part."""
    scheduler = stage.decoder.denoising_schedule(num_inference_steps)
    latents, predicted = _noise(stage, seed) * scheduler.init_noise_sigma, _noise(stage, seed + 1)
    walk = [scheduler.timesteps.float()]
    for timestep in scheduler.timesteps:
        scheduler.scale_model_input(latents, timestep)
        latents = scheduler.step(predicted, timestep, latents, return_dict=False)[0]
        walk.append(latents.flatten()[:128].float())
    return phases(_array(torch.cat(walk)))


def _block(hidden_size: int, num_tokens: int, seed: int) -> NDArray[np.float32]:
    """(T, D) of unit variance, with as many of the `num_tokens` rows as the file has room for."""
    num_rows = max(1, min(num_tokens, NUM_INPUT_VALUES // hidden_size))
    return np.random.default_rng(seed).standard_normal((num_rows, hidden_size), np.float32)


def _noise(stage: DecoderStage, seed: int) -> Tensor:
    return torch.randn((1, *stage.decoder.latent_shape), generator=torch.Generator().manual_seed(seed))


def _latents(stage: DecoderStage, seed: int) -> Tensor:
    return _noise(stage, seed).to(**_like(stage))


def _tensor(values: Array, module: nn.Module) -> Tensor:
    """(1, T, D) where and as the module computes."""
    return torch.from_numpy(values)[None].to(**_like(module))


def _like(module: nn.Module) -> dict[str, Any]:
    parameter = next(module.parameters())
    return {"device": parameter.device, "dtype": parameter.dtype}


def _array(values: Tensor) -> NDArray[np.float32]:
    return values.detach().float().cpu().numpy()


def _no_grad(module: nn.Module, *values: Tensor) -> Tensor:
    with torch.no_grad():
        return module(*values)  # type: ignore[no-any-return]
