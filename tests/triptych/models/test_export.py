"""An export computes what torch computes, in batches of any size, or is not there."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from tests.tiny import clip_encoder, write_tiny_checkpoint
from triptych.card import Card, Port, read_card, verify_digest, write_card
from triptych.errors import CheckpointError, ExportError, FailedPrecondition, InvalidArgument, Unimplemented
from triptych.exports import Export, export_name, read_export, verify_export
from triptych.models import export as export_module
from triptych.models import onnx_graph
from triptych.models.decoder_stage import DecoderStage
from triptych.models.encoder_stage import EncoderStage
from triptych.models.export import ExportConfig, export_component
from triptych.models.onnx_model import OnnxModel, choose_provider
from triptych.models.triton_repository import TritonConfig

NO_GPU = choose_provider("auto") == "cpu"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture
def checkpoint(made: Path, tmp_path: Path) -> Path:
    """One that may be changed."""
    return Path(shutil.copytree(made, tmp_path / "tiny"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def equal_in_batches(folder: Path, export: Export, atol: float) -> None:
    stage = EncoderStage.load(folder)
    own = verify_export(folder, read_card(folder), f"{export.format}-{export.precision}")
    graph = OnnxModel(next(own.rglob("*.onnx")), num_threads=1)
    for count in (1, 3, 8):
        pixel_values = np.random.default_rng(count).standard_normal((count, 3, 32, 32), np.float32)
        np.testing.assert_allclose(graph(pixel_values), stage.embed(pixel_values), atol=atol)


def test_siglip_in_float32(checkpoint: Path) -> None:
    folder = checkpoint / "encoder"
    before = read_card(folder)
    export = export_component(folder, ExportConfig())
    card = read_card(folder)
    assert export == read_export(card, "onnx-f32")
    assert export.cosine_min_seen > 0.999999
    assert (export.images, export.cosine_min, export.of) == (24, 0.9999, before.digest)
    assert card.digest == before.digest
    verify_digest(folder, card)
    equal_in_batches(folder, export, atol=1e-5)


def test_clip_in_float32(tmp_path: Path) -> None:
    """With a class token, quick GELU and preprocessing by crop."""
    folder = tmp_path / "encoder"
    folder.mkdir()
    clip_encoder().save(folder)
    port = Port("embeddings", "embeddings", "tiny/llm-input@0", "f32", (4, 32))
    write_card(folder, Card("encoder", "clip", "1.0.0", outputs=(port,)))
    export = export_component(folder, ExportConfig())
    assert export.cosine_min_seen > 0.999999
    equal_in_batches(folder, export, atol=1e-5)


@pytest.mark.parametrize(("precision", "atol"), [("f16", 0.01), ("int8", 0.1)])
def test_lower_precision(checkpoint: Path, precision: str, atol: float) -> None:
    folder = checkpoint / "encoder"
    export = export_component(folder, ExportConfig(precision=precision))
    assert 0.999 <= export.cosine_min_seen < 0.9999999
    assert export.cosine_min == 0.999
    equal_in_batches(folder, export, atol)


@pytest.mark.skipif(not NO_GPU, reason="needs an ONNX Runtime without CUDA")
@pytest.mark.parametrize(
    ("kind", "config", "complaint"),
    [
        ("encoder", ExportConfig(precision="bf16"), "CPUExecutionProvider does not run .*Conv"),
        ("decoder", ExportConfig(precision="bf16"), "CPUExecutionProvider does not run .*head.onnx"),
        ("encoder", ExportConfig(format="tensorrt", precision="f16"), "TensorRT needs an NVIDIA GPU"),
    ],
)
def test_what_needs_a_gpu(checkpoint: Path, kind: str, config: ExportConfig, complaint: str) -> None:
    before = contents(checkpoint)
    with pytest.raises(FailedPrecondition, match=complaint):
        export_component(checkpoint / kind, config)
    assert contents(checkpoint) == before
    assert not (checkpoint / kind / "exports").exists()


@pytest.mark.parametrize("precision", ["f32", "int8"])
def test_weights_in_a_file_of_their_own(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    """As for graphs beyond protobuf's two gigabytes: the digest covers that file too."""
    monkeypatch.setattr(onnx_graph, "MAX_INLINE_BYTES", 0)
    folder = checkpoint / "encoder"
    export = export_component(folder, ExportConfig(precision=precision))
    equal_in_batches(folder, export, atol=0.1)
    own = folder / "exports" / f"onnx-{precision}"
    weights = {"encoder.onnx.data"} if precision == "f32" else set()
    assert {path.name for path in own.iterdir()} == {"encoder.onnx", *weights}
    for name in weights:
        (own / name).write_bytes((own / name).read_bytes()[:-1] + b"!")
        with pytest.raises(CheckpointError, match="half-copied or changed"):
            verify_export(folder, read_card(folder), "onnx-f32")


def test_weights_that_overflow_float16_are_refused(checkpoint: Path) -> None:
    """Float32 bears them; in float16 they become infinite without an error from anyone."""
    folder = checkpoint / "encoder"
    stage = EncoderStage.load(folder)
    projector: Any = stage.projector
    projector.linear_1.weight.data *= 1e7
    stage.save(folder)
    write_card(folder, read_card(folder))
    before = contents(folder)
    with pytest.raises(ExportError, match=r"onnx-f16: encoder reaches cosine nan"):
        export_component(folder, ExportConfig(precision="f16"))
    assert contents(folder) == before
    assert not (folder / "exports").exists()


@pytest.mark.skipif(not NO_GPU, reason="on a GPU the graph itself overflows, and the message is another")
def test_activations_that_overflow_float16_are_refused(checkpoint: Path) -> None:
    """All weights fit. ONNX Runtime on the CPU, which computes in float32, would find nothing wrong."""
    folder = checkpoint / "encoder"
    stage = EncoderStage.load(folder)
    projector: Any = stage.projector
    scale = 6e4 / projector.linear_1.weight.abs().max()
    projector.linear_1.weight.data *= scale
    projector.linear_2.weight.data /= scale / 1e3  # no further, or it would be too small for float16
    stage.save(folder)
    write_card(folder, read_card(folder))
    assert max(parameter.abs().max() for parameter in stage.parameters()) < torch.finfo(torch.float16).max
    before = contents(folder)
    with pytest.raises(ExportError, match=r"onnx-f16: encoder in torch's float16 reaches cosine nan"):
        export_component(folder, ExportConfig(precision="f16"))
    assert contents(folder) == before


@pytest.mark.parametrize("precision", ["f32", "int8"])
def test_perturbed_weights_are_refused(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    """As a broken exporter would write them. An older export stays as it is."""
    folder = checkpoint / "encoder"
    export_component(folder, ExportConfig())
    before = contents(folder)

    def broken(module: Any, *rest: Any) -> None:
        stage = EncoderStage.load(folder)
        layer: Any = stage.projector
        layer.linear_1.weight.data += 0.1 * layer.linear_1.weight.std() * torch.randn_like(layer.linear_1.weight)
        write_graph(stage, *rest)

    write_graph = export_module.write_graph
    monkeypatch.setattr(export_module, "write_graph", broken)
    with pytest.raises(ExportError, match=rf"onnx-{precision}: encoder reaches cosine 0\.\d+ .*nothing is written"):
        export_component(folder, ExportConfig(precision=precision))
    assert contents(folder) == before
    assert [path.name for path in (folder / "exports").iterdir()] == ["onnx-f32"]


def test_again_replaces_and_another_adds(checkpoint: Path) -> None:
    folder = checkpoint / "encoder"
    export_component(folder, ExportConfig())
    (folder / "exports" / "onnx-f32" / "left over").write_bytes(b"")
    with ThreadPoolExecutor() as pool:  # both at once: each finds the other's line in the card
        list(pool.map(partial(export_component, folder), (ExportConfig(), ExportConfig(format="triton"))))
    card = read_card(folder)
    assert sorted(card.exports) == ["onnx-f32", "triton-f32"]
    assert all(verify_export(folder, card, name).is_dir() for name in card.exports)


def test_triton_repository(checkpoint: Path) -> None:
    folder = checkpoint / "encoder"
    export = export_component(folder, ExportConfig(format="triton", triton=TritonConfig(max_batch_size=4)))
    (model,) = (folder / "exports" / "triton-f32").iterdir()
    config: Any = text_format.Parse((model / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    assert config.name == model.name == f"encoder_{read_card(folder).generation}"
    assert (config.backend, config.max_batch_size) == ("onnxruntime", 4)
    assert (list(config.input[0].dims), list(config.output[0].dims)) == ([3, 32, 32], [4, 32])
    assert config.parameters["component_digest"].string_value == read_card(folder).digest
    equal_in_batches(folder, export, atol=1e-5)


@pytest.mark.parametrize(("precision", "atol"), [("f32", 1e-4), ("f16", 0.01)])
def test_decoder(checkpoint: Path, precision: str, atol: float) -> None:
    """The generation head and the VAE's decoder, with a batch of any size."""
    folder = checkpoint / "decoder"
    export = export_component(folder, ExportConfig(precision=precision))
    assert sorted(export.parts) == ["head", "vae_decoder"]
    assert min(export.parts.values()) == export.cosine_min_seen > export.cosine_min
    own = verify_export(folder, read_card(folder), export_name("onnx", precision))
    stage = DecoderStage.load(folder)
    head, vae_decoder = (OnnxModel(own / f"{name}.onnx", num_threads=1) for name in ("head", "vae_decoder"))
    assert (head.inputs, vae_decoder.inputs) == (("hidden_states", "embeddings"), ("latents",))
    for count in (1, 3, 8):
        hidden, embeddings = torch.randn(2, count, 4, 32)
        latents = torch.randn(count, *stage.decoder.latent_shape)
        conditioning = stage.condition(hidden, embeddings).numpy()
        np.testing.assert_allclose(head(hidden.numpy(), embeddings.numpy()), conditioning, atol=atol)
        pixels = stage.decoder.decode(latents).numpy()
        np.testing.assert_allclose(vae_decoder(latents.numpy()), pixels, atol=atol)


def test_only_what_there_is(checkpoint: Path) -> None:
    with pytest.raises(Unimplemented, match=r"llm tiny 1\.0\.0 cannot be exported: only encoder and decoder can"):
        export_component(checkpoint / "llm", ExportConfig())
    with pytest.raises(Unimplemented, match="can be exported as onnx only, not as triton"):
        export_component(checkpoint / "decoder", ExportConfig(format="triton"))


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"format": "coreml"}, "format is 'coreml', must be one of onnx, tensorrt, triton"),
        ({"precision": "fp16"}, "precision is 'fp16', must be one of f32, bf16, f16, int8"),
        ({"format": "tensorrt", "precision": "int8"}, "TensorRT does not run such graphs"),
    ],
)
def test_config(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidArgument, match=complaint):
        ExportConfig(**values)


def test_a_changed_component_is_not_exported(checkpoint: Path) -> None:
    weights = checkpoint / "encoder" / "projector" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(CheckpointError, match="half-copied or changed"):
        export_component(checkpoint / "encoder", ExportConfig())


def test_a_component_changed_meanwhile_is_not_blessed(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The card's digest is the publisher's word: an export never gives it another."""
    folder = checkpoint / "encoder"
    card = (folder / "card.json").read_bytes()
    write_graph = export_module.write_graph

    def changing(*args: Any) -> None:
        write_graph(*args)
        weights = folder / "projector" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"!")

    monkeypatch.setattr(export_module, "write_graph", changing)
    with pytest.raises(CheckpointError, match="half-copied or changed"):
        export_component(folder, ExportConfig())
    assert (folder / "card.json").read_bytes() == card
    assert not (folder / "exports").exists()
