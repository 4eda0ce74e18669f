"""An orchestrator that answers from a script, on a thread of its own, for tests of what calls it."""

import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from PIL import Image

from triptych.v1 import component_pb2, llm_pb2
from triptych.v1 import orchestrator_pb2 as pb
from triptych.v1.orchestrator_pb2_grpc import (
    OrchestratorServiceServicer,
    add_OrchestratorServiceServicer_to_server,
)


def png(color: str = "red", size: tuple[int, int] = (8, 8)) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, color).save(data, "PNG")
    return data.getvalue()


class FakeOrchestrator(OrchestratorServiceServicer):
    """Text for UNDERSTAND, text and image for AUTO, image for the others. `errors` are answered first, one per call."""

    def __init__(self) -> None:
        self.requests: list[pb.RespondRequest] = []
        self.errors: list[tuple[grpc.StatusCode, str]] = []
        self.breaks_after: int | None = None
        self.hangs = False
        self.skips = False
        self.text = (" a red", " circle")
        self.cancelled = threading.Event()
        self.components = _components()
        self._server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", 2**26)])
        add_OrchestratorServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def stop(self) -> None:
        self._server.stop(0).wait()

    def Respond(self, request: pb.RespondRequest, context: Any) -> Iterator[pb.RespondResponse]:
        self.requests.append(request)
        context.add_callback(self.cancelled.set)
        self._fail(context)
        for number, response in enumerate(self._events(request)):
            if number == self.breaks_after:
                self.errors.append((grpc.StatusCode.UNAVAILABLE, "llm at 10.0.0.1:1 went away"))
                self._fail(context)
            response.sequence_number = number + (self.skips and number > 0)
            yield response
            if self.hangs:
                self.cancelled.clear()
                context.add_callback(self.cancelled.set)
                self.cancelled.wait(5)

    def ListComponents(self, request: Any, context: Any) -> pb.ListComponentsResponse:
        self._fail(context)
        return self.components

    def _fail(self, context: Any) -> None:
        if self.errors:
            context.set_trailing_metadata((("stage", "llm"), ("replica", "10.0.0.1:1"), ("x-request-id", "req7")))
            context.abort(*self.errors.pop(0))

    def _events(self, request: pb.RespondRequest) -> Iterator[pb.RespondResponse]:
        params = request.image_params
        if request.task in (pb.TASK_AUTO, pb.TASK_UNDERSTAND):
            for text in self.text:
                yield pb.RespondResponse(text=pb.RespondText(text=text))
        if request.task != pb.TASK_UNDERSTAND:
            yield pb.RespondResponse(image_started=pb.ImageStarted(image_index=0))
            for step in (1, 2):
                yield pb.RespondResponse(image_progress=pb.ImageProgress(image_index=0, step=step, num_steps=2))
                if params.preview_interval:
                    yield pb.RespondResponse(image_preview=pb.ImagePreview(image_index=0, image=png("gray"), step=step))
            yield pb.RespondResponse(
                image=pb.Image(image_index=0, image=png("blue"), width=8, height=8, seed=params.seed or 5)
            )
        if request.task == pb.TASK_AUTO:
            yield pb.RespondResponse(text=pb.RespondText(text=" done"))
        yield pb.RespondResponse(
            done=pb.Done(
                finish_reason="stop",
                usage=llm_pb2.Usage(num_prompt_tokens=3, num_generated_tokens=4, num_images=1),
                stage_times=[pb.StageTime(stage="llm", queued_ms=1, running_ms=2)],
                served_by=[pb.ServedBy(kind="llm", name="tiny", version="1", digest="sha256:1", replica_id="r")],
                total_ms=5,
                request_id="req7",
            )
        )


def _components() -> pb.ListComponentsResponse:
    llm = component_pb2.DescribeResponse(
        card=component_pb2.Card(
            kind="llm",
            name="mistral-tiny",
            version="1.0.0",
            digest="sha256:0123456789abcdef",
            inputs=[component_pb2.Port(name="embeddings", type="embeddings", space="in@1")],
        ),
        load=component_pb2.Load(num_running=1, num_waiting=2),
        backend="torch",
        generation="0123456789ab.cafe",
    )
    trial = {"standing": component_pb2.STANDING_TRIAL, "standing_reason": "an older one serves", "share": 0.25}
    calls = {"num_calls": 7, "num_failed": 1}
    return pb.ListComponentsResponse(
        replicas=[
            pb.Replica(kind="llm", address="10.0.0.1:1", health=pb.HEALTH_SERVING, description=llm, **trial, **calls),
            pb.Replica(kind="decoder", address="10.0.0.2:1", health=pb.HEALTH_UNREACHABLE, detail="refused"),
        ],
        chains=[pb.Chain(llm_digest="sha256:0123456789abcdef", compatible=False, reason="no [odd] match")],
    )
