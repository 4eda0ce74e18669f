"""backend=onnxruntime: the embeddings of torch without torch, from files that passed the gate and from no others."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from services.encoder import onnxruntime_backend
from services.encoder.config import EncoderConfig
from services.encoder.process import assemble
from tests.services.components import ROOT, encoder, run_service
from tests.services.encoder.calls import embed, encoded, picture
from triptych.card import folder_digest, read_card, write_card
from triptych.errors import CheckpointError, FailedPrecondition, ProbeError
from triptych.models.encoder_stage import EncoderStage
from triptych.models.onnx_graph import write_graph
from triptych.v1 import component_pb2, component_pb2_grpc

PICTURES = [picture(40 + 8 * seed, 24, seed) for seed in range(8)]


def expected(checkpoint: Path) -> np.ndarray:
    stage = EncoderStage.load(checkpoint / "encoder")
    return stage.embed(stage.processor.pixel_values(PICTURES))


def engine(checkpoint: Path, **settings: Any) -> Any:
    settings = {"backend": "onnxruntime", **settings}
    return assemble(EncoderConfig(checkpoint=checkpoint / "encoder", device="cpu", **settings), "r")[1]


@pytest.mark.parametrize(("export", "atol"), [(None, 1e-5), ("onnx-int8", 0.1)])
async def test_embeddings_are_torch_s(exported_checkpoint: Path, export: str | None, atol: float) -> None:
    settings: dict[str, Any] = {"backend": "onnxruntime", "export": export, "max_batch_size": 3, "num_threads": 1}
    async with encoder(exported_checkpoint, **settings) as (stub, _, channel):
        found, _ = await embed(stub, [encoded(image) for image in PICTURES])
        described = await component_pb2_grpc.ComponentServiceStub(channel).Describe(component_pb2.DescribeRequest())
    np.testing.assert_allclose(np.stack(found), expected(exported_checkpoint), atol=atol)
    precision = (export or "onnx-f32").removeprefix("onnx-")
    assert (described.backend, described.device, described.dtype) == ("onnxruntime", "cpu", precision)
    assert described.probe_cosine > 0.999
    assert described.card.digest == read_card(exported_checkpoint / "encoder").digest


def test_no_torch(exported_checkpoint: Path) -> None:
    """From reading the card to the last embedding; transformers and the exporter stay away too."""
    code = f"""
import asyncio, sys
from services.encoder.config import EncoderConfig
from services.encoder.process import assemble
from triptych.serving.batching import Timing

async def main():
    config = EncoderConfig.from_args(["--checkpoint", {str(exported_checkpoint / "encoder")!r},
                                      "--backend", "onnxruntime", "--device", "cpu", "--num-threads", "1"])
    process, engine = assemble(config, "r")
    server = await process.start()
    found = [e async for e in engine.encode([{encoded(picture())!r}], Timing())]
    await server.drain(0)
    await engine.stop()
    print(found[0].shape, *[name for name in ("torch", "transformers", "onnx", "onnxscript") if name in sys.modules])

asyncio.run(main())
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.stdout.strip().splitlines()[-1:] == ["(4, 32)"], ended.stderr


async def test_tampered_graph_misses_its_digest(copied_export: Path) -> None:
    graph = copied_export / "encoder" / "exports" / "onnx-f32" / "encoder.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 0x40
    graph.write_bytes(data)
    started = engine(copied_export)
    with pytest.raises(CheckpointError, match=r"encoder tiny 1\.0\.0: export 'onnx-f32' .* half-copied or changed"):
        await started.start()
    await started.stop()


async def test_a_card_that_was_changed_with_the_graph_misses_the_probes(copied_export: Path) -> None:
    """Digest and all: only the probes can tell that the graph computes something else."""
    folder = copied_export / "encoder"
    stage = EncoderStage.load(folder)
    projector: Any = stage.projector
    projector.linear_2.weight.data = projector.linear_2.weight.data.flip(0)
    replace_graph(folder, stage)
    started = engine(copied_export)
    with pytest.raises(ProbeError, match="probe 'embeddings-0' reaches cosine"):
        await started.start()
    await started.stop()


def replace_graph(folder: Path, stage: EncoderStage) -> None:
    """Another stage's graph, and a card that says it is the right one."""
    own = folder / "exports" / "onnx-f32"
    pixel_values = stage.preprocess(PICTURES[:2])
    write_graph(stage, {"pixel_values": pixel_values}, "embeddings", own / "encoder.onnx")
    card = read_card(folder)
    card.exports["onnx-f32"]["digest"] = folder_digest(own)
    write_card(folder, card)


def test_no_such_export(tiny_checkpoint: Path, exported_checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="has no export 'onnx-f32', it has: none; `triptych export` makes them"):
        engine(tiny_checkpoint)
    with pytest.raises(CheckpointError, match="export 'triton-f32' is triton, must be onnx or tensorrt"):
        engine(exported_checkpoint, export="triton-f32")


def test_settings_that_nothing_would_heed(exported_checkpoint: Path) -> None:
    with pytest.raises(FailedPrecondition, match="dtype is bf16, but export 'onnx-f32' computes in f32"):
        engine(exported_checkpoint, dtype="bf16")
    with pytest.raises(FailedPrecondition, match="export is 'onnx-f32', but backend torch runs none"):
        engine(exported_checkpoint, backend="torch", export="onnx-f32")


def test_tensorrt_on_the_cpu(copied_export: Path) -> None:
    as_tensorrt(copied_export / "encoder")
    with pytest.raises(FailedPrecondition, match="device is cpu, but export 'tensorrt-f32' runs on cuda only"):
        engine(copied_export, export="tensorrt-f32")


def test_engines_are_kept_apart_by_what_they_were_built_from(
    copied_export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime finds them by names and shapes, which are those of the next training's component too."""
    folder = copied_export / "encoder"
    as_tensorrt(folder)
    seen: dict[str, Any] = {}

    def started(path: Path, provider: str, num_threads: int, options: dict[str, Any]) -> Any:
        seen.update(options)
        return SimpleNamespace(input_shape=lambda name: ("batch", 3, 32, 32))

    monkeypatch.setattr(onnxruntime_backend, "require_tensorrt", lambda: None)
    monkeypatch.setattr(onnxruntime_backend, "OnnxModel", started)
    config = EncoderConfig(
        checkpoint=folder, backend="onnxruntime", export="tensorrt-f32", engine_cache=tmp_path / "engines"
    )
    onnxruntime_backend.OnnxruntimeBackend(config, read_card(folder)).load(folder)
    digest = read_card(folder).exports["tensorrt-f32"]["digest"].removeprefix("sha256:")
    assert seen["trt_engine_cache_path"] == str(tmp_path / "engines" / digest)
    assert (tmp_path / "engines" / digest).is_dir()


def as_tensorrt(folder: Path) -> None:
    """The onnx export once more, as one that passed under TensorRT."""
    shutil.copytree(folder / "exports" / "onnx-f32", folder / "exports" / "tensorrt-f32")
    card = read_card(folder)
    card.exports["tensorrt-f32"] = card.exports["onnx-f32"] | {"format": "tensorrt"}
    write_card(folder, card)


def test_process_says_why_in_one_line(tiny_checkpoint: Path) -> None:
    ended = run_service("encoder", "--checkpoint", str(tiny_checkpoint / "encoder"), "--backend", "onnxruntime")
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    line = ended.stderr.strip().splitlines()[-1]
    assert "encoder tiny 1.0.0 has no export 'onnx-f32'" in line


def test_after_retraining_the_export_is_stale(copied_export: Path) -> None:
    folder = copied_export / "encoder"
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    write_card(folder, read_card(folder))
    with pytest.raises(CheckpointError, match="was made from .* export it again"):
        engine(copied_export)
