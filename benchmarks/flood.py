"""Requests straight to one replica, past the orchestrator, more than it takes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Final

import grpc
import numpy as np
from PIL import Image

from triptych.v1 import encoder_pb2, encoder_pb2_grpc, llm_pb2, llm_pb2_grpc

NUM_CALLERS: Final = 12
NUM_PICTURES: Final = 16


@contextmanager
def flood(stage: str, address: str) -> Iterator[None]:
    """Of the encoder or the LLM, while the block lasts. Most of it is refused: that is the point."""
    stop = threading.Event()
    threads = [threading.Thread(target=_pour, args=(stage, address, stop)) for _ in range(NUM_CALLERS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _pour(stage: str, address: str, stop: threading.Event) -> None:
    with grpc.insecure_channel(address) as channel:
        while not stop.is_set():
            try:
                _encode(channel) if stage == "encoder" else _generate(channel, stop)
            except grpc.RpcError:
                stop.wait(0.05)


def _encode(channel: grpc.Channel) -> None:
    file = BytesIO()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(file, "PNG")
    images = [file.getvalue()] * NUM_PICTURES
    for _ in encoder_pb2_grpc.EncoderServiceStub(channel).Encode(encoder_pb2.EncodeRequest(images=images)):
        pass


def _generate(channel: grpc.Channel, stop: threading.Event) -> None:
    prompt = llm_pb2.Prompt(
        segments=[llm_pb2.Segment(text="what is left of the red circle? " * 4)],
        sampling=llm_pb2.SamplingParams(temperature=2.0, max_tokens=100),
        image_policy=llm_pb2.IMAGE_POLICY_FORBID,
    )
    is_over = threading.Event()

    def requests() -> Iterator[llm_pb2.GenerateRequest]:
        yield llm_pb2.GenerateRequest(prompt=prompt)
        while not (is_over.is_set() or stop.is_set()):
            is_over.wait(0.2)

    try:
        for _ in llm_pb2_grpc.LlmServiceStub(channel).Generate(requests()):
            pass
    finally:
        is_over.set()
