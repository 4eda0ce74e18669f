"""A Triton server as far as the encoder asks it: it serves what its model repository holds at the moment."""

from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from triptych.models.onnx_model import OnnxModel

pb: Final[Any] = service_pb2


class TritonStandIn(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """`repository` may be replaced while it runs, as an operator restarts Triton over another one."""

    def __init__(self, repository: Path) -> None:
        self.repository = repository

    def ModelConfig(self, request: Any, context: grpc.ServicerContext) -> Any:
        text = (self._model(request.name, context) / "config.pbtxt").read_text()
        return pb.ModelConfigResponse(config=text_format.Parse(text, model_config_pb2.ModelConfig()))

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:
        graph = OnnxModel(self._model(request.model_name, context) / "1" / "model.onnx", num_threads=1)
        pixel_values = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(request.inputs[0].shape)
        embeddings = graph(pixel_values)
        response = pb.ModelInferResponse(model_name=request.model_name, model_version="1")
        response.outputs.add(name="embeddings", datatype="FP32", shape=embeddings.shape)
        response.raw_output_contents.append(embeddings.tobytes())
        return response

    def _model(self, name: str, context: grpc.ServicerContext) -> Path:
        folder = self.repository / name
        if not folder.is_dir():  # in Triton's own words
            context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{name}' is not found")
        return folder


@contextmanager
def stand_in(repository: Path) -> Iterator[tuple[TritonStandIn, str]]:
    """The server and its address."""
    triton = TritonStandIn(repository)
    server = grpc.server(futures.ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(triton, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield triton, f"127.0.0.1:{port}"
    server.stop(0).wait()
