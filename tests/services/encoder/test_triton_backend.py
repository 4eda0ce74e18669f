"""backend=triton against a real Triton server, where one can be had: the embeddings of torch, and clear words when the
server is wrong. What an operator may do to a server is played on a stand-in.
"""

import asyncio
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from services.encoder.config import EncoderConfig
from services.encoder.process import assemble
from services.encoder.triton_backend import TritonBackend, TritonEmbedder
from tests.services.components import ROOT, encoder, refused
from tests.services.encoder.calls import embed, encoded, picture
from tests.services.encoder.triton_stand_in import stand_in
from triptych.card import read_card, write_card
from triptych.errors import CheckpointError, FailedPrecondition, Unavailable
from triptych.models.encoder_stage import EncoderStage
from triptych.models.processors import ImageProcessor
from triptych.models.triton_repository import TritonConfig, graph_path, write_repository
from triptych.v1 import component_pb2, component_pb2_grpc

SCRIPT = ROOT / "scripts" / "triton"
PICTURES = [picture(40 + 8 * seed, 24, seed) for seed in range(8)]
PIXELS = np.zeros((1, 3, 32, 32), np.float32)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_triton(repository: Path, log: Path) -> tuple[subprocess.Popen[bytes], str]:
    """A server that has loaded the model, and its address."""
    port = free_port()
    (model,) = (path.name for path in repository.iterdir())
    with log.open("wb") as file:
        process = subprocess.Popen([SCRIPT, str(repository), str(port)], stdout=file, stderr=file)
    address = f"127.0.0.1:{port}"
    with InferenceServerClient(address) as client:
        for _ in range(600):
            try:
                if client.is_model_ready(model):
                    return process, address
            except InferenceServerException:
                pass  # not listening yet
            if process.poll() is not None:
                break
            time.sleep(0.2)
    process.kill()
    raise AssertionError(f"Triton did not start:\n{log.read_text(errors='replace')[-3000:]}")


@pytest.fixture(scope="session")
def triton_installed() -> None:
    """Skips where the server's package or Debian's Python with its shared library cannot be had."""
    if not Path("/usr/bin/python3").exists():
        pytest.skip("no /usr/bin/python3 for the Triton server's Python backend")
    installed = subprocess.run([SCRIPT, "none", "0"], capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"scripts/triton cannot install a Triton server here: {installed.stderr[-300:]}")


@pytest.fixture(scope="session")
def triton(
    triton_installed: None, exported_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Address of a server that serves the exported repository."""
    folder = tmp_path_factory.mktemp("triton")
    repository = shutil.copytree(exported_checkpoint / "encoder" / "exports" / "triton-f32", folder / "repository")
    process, address = start_triton(repository, folder / "log")
    yield address
    process.terminate()
    process.wait(60)


def engine(checkpoint: Path, **settings: Any) -> Any:
    settings = {"device": "cpu", **settings}
    config = EncoderConfig(checkpoint=checkpoint / "encoder", backend="triton", **settings)
    return assemble(config, "r")[1]


async def test_embeddings_are_torch_s(exported_checkpoint: Path, triton: str) -> None:
    async with encoder(exported_checkpoint, backend="triton", triton_address=triton, max_batch_size=3) as (
        stub,
        _,
        channel,
    ):
        found, _ = await embed(stub, [encoded(image) for image in PICTURES])
        described = await component_pb2_grpc.ComponentServiceStub(channel).Describe(component_pb2.DescribeRequest())
    stage = EncoderStage.load(exported_checkpoint / "encoder")
    expected = stage.embed(stage.processor.pixel_values(PICTURES))
    np.testing.assert_allclose(np.stack(found), expected, atol=1e-5)
    assert (described.backend, described.device, described.dtype) == ("triton", triton, "f32")
    assert described.probe_cosine > 0.9999


async def test_requests_share_a_batch_and_keep_their_rows(exported_checkpoint: Path, triton: str) -> None:
    """Two replicas, many calls at once: Triton's own batcher mixes them."""
    settings: dict[str, Any] = {"backend": "triton", "triton_address": triton}
    async with (
        encoder(exported_checkpoint, **settings) as (one, _, _),
        encoder(exported_checkpoint, **settings) as (
            other,
            _,
            _,
        ),
    ):
        calls = [embed((one, other)[i % 2], [encoded(image)]) for i, image in enumerate(PICTURES)]
        found = [embeddings[0] for embeddings, _ in await asyncio.gather(*calls)]
    stage = EncoderStage.load(exported_checkpoint / "encoder")
    expected = stage.embed(stage.processor.pixel_values(PICTURES))
    np.testing.assert_allclose(np.stack(found), expected, atol=1e-5)


async def test_another_component_on_the_server(copied_export: Path, triton: str) -> None:
    """The card goes on to a new state, the server has the old one."""
    folder = copied_export / "encoder"
    (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()), indent=1))
    card = write_card(folder, read_card(folder))
    card.exports["triton-f32"]["of"] = card.digest
    write_card(folder, card)
    started = engine(copied_export, triton_address=triton)
    with pytest.raises(FailedPrecondition, match=r"has no model encoder_\w{12}: encoder tiny 1\.0\.0 is sha256:"):
        await started.start()
    await started.stop()


async def test_batches_larger_than_the_server_takes(exported_checkpoint: Path, triton: str) -> None:
    started = engine(exported_checkpoint, triton_address=triton, max_batch_size=17)
    with pytest.raises(FailedPrecondition, match=r"max_batch_size is 17, Triton at .* takes at most 16"):
        await started.start()
    await started.stop()


async def test_a_server_that_dies_is_unavailable(
    triton_installed: None, exported_checkpoint: Path, tmp_path: Path
) -> None:
    repository = exported_checkpoint / "encoder" / "exports" / "triton-f32"
    process, address = start_triton(Path(shutil.copytree(repository, tmp_path / "repository")), tmp_path / "log")
    async with encoder(exported_checkpoint, backend="triton", triton_address=address) as (stub, _, _):
        images = [encoded(PICTURES[0])]
        assert len((await embed(stub, images))[0]) == 1
        process.kill()
        process.wait()
        code, message = await refused(embed(stub, images))
    assert code == "UNAVAILABLE"
    assert f"Triton at {address}" in message


def test_a_real_server_has_no_other_component_s_model(triton: str) -> None:
    """As after its repository was replaced."""
    embedder = TritonEmbedder(ImageProcessor(size=32), f"sha256:{'0' * 64}", triton, timeout_s=30)
    with pytest.raises(Unavailable, match=f"Triton at {triton}: .*encoder_000000000000"):
        embedder.embed(PIXELS)


def test_a_model_replaced_under_a_running_replica(exported_checkpoint: Path, tmp_path: Path) -> None:
    """Another component's embeddings must not go out under this one's card."""
    with stand_in(exported_checkpoint / "encoder" / "exports" / "triton-f32") as (triton, address):
        embedder = loaded(exported_checkpoint, address)
        assert embedder.embed(PIXELS).shape == (1, 4, 32)
        triton.repository = repository_of(f"sha256:{'0' * 64}", exported_checkpoint, tmp_path)
        with pytest.raises(Unavailable, match="unknown model"):
            embedder.embed(PIXELS)
        with pytest.raises(FailedPrecondition, match=r"has no model encoder_\w{12}: encoder tiny 1\.0\.0 is sha256:"):
            loaded(exported_checkpoint, address)


def test_a_model_of_the_right_name_and_another_digest(exported_checkpoint: Path, tmp_path: Path) -> None:
    """Two digests that start alike, or a renamed folder: the whole digest counts."""
    card = read_card(exported_checkpoint / "encoder")
    with stand_in(repository_of(f"{card.digest[:-1]}x", exported_checkpoint, tmp_path)) as (_, address):
        with pytest.raises(FailedPrecondition, match=r"serves sha256:\w+x, encoder tiny 1\.0\.0 is sha256:"):
            loaded(exported_checkpoint, address)


def repository_of(digest: str, checkpoint: Path, folder: Path) -> Path:
    """As an export of another component, with this one's graph."""
    (graph,) = (checkpoint / "encoder" / "exports" / "triton-f32").rglob("model.onnx")
    shutil.copyfile(graph, graph_path(folder, digest))
    write_repository(folder, TritonConfig(), (3, 32, 32), (4, 32), digest)
    return folder


def loaded(checkpoint: Path, address: str) -> Any:
    folder = checkpoint / "encoder"
    config = EncoderConfig(checkpoint=folder, backend="triton", triton_address=address)
    return TritonBackend(config, read_card(folder)).load(folder)


def test_a_device_that_the_server_does_not_heed(exported_checkpoint: Path) -> None:
    with pytest.raises(FailedPrecondition, match="device is cuda, but export 'triton-f32' is computed by the Triton"):
        engine(exported_checkpoint, device="cuda")


async def test_no_server(exported_checkpoint: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    started = engine(exported_checkpoint, triton_address=address)
    with pytest.raises(Unavailable, match=f"Triton at {address}"):
        await started.start()
    await started.stop()


def test_no_export_for_it(tiny_checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="has no export 'triton-f32'"):
        engine(tiny_checkpoint)
