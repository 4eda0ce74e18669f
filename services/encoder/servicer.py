"""EncoderService: checks the request, forwards it to the engine, puts embeddings on the wire."""

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Final, cast

import grpc

from services.encoder.config import EncoderConfig
from services.encoder.engine import EncoderEngine
from triptych.card import Card
from triptych.errors import InvalidArgument
from triptych.serving.batching import Timing
from triptych.tensors import DTypeName, to_messages
from triptych.v1 import encoder_pb2 as pb
from triptych.v1 import encoder_pb2_grpc

SERVICE_NAME: Final = pb.DESCRIPTOR.services_by_name["EncoderService"].full_name


class EncoderServicer(encoder_pb2_grpc.EncoderServiceServicer):
    """Called by the orchestrator."""

    def __init__(self, engine: EncoderEngine, card: Card, config: EncoderConfig) -> None:
        self._engine = engine
        self._max_images = config.max_images_per_request
        port = card.output("embeddings")
        self._space = port.space
        self._dtype = cast(DTypeName, port.dtype or "f32")

    def add_to(self, server: grpc.aio.Server) -> None:
        """Registers with `server`; its name is SERVICE_NAME."""
        encoder_pb2_grpc.add_EncoderServiceServicer_to_server(self, server)

    async def Encode(self, request: pb.EncodeRequest, context: object) -> AsyncIterator[pb.EncodeResponse]:
        self._check(request.images)
        timing = Timing()
        async with aclosing(self._engine.encode(request.images, timing)) as results:
            index = 0
            async for embeddings in results:
                header, chunks = to_messages(embeddings, self._dtype)
                yield pb.EncodeResponse(embedding=pb.ImageEmbedding(image_index=index, embeddings=header))
                for chunk in chunks:
                    yield pb.EncodeResponse(chunk=chunk)
                index += 1
        done = pb.EncodeDone(queued_ms=timing.queued_ms, running_ms=timing.running_ms, space=self._space)
        yield pb.EncodeResponse(done=done)

    def _check(self, images: Sequence[bytes]) -> None:
        if not 1 <= len(images) <= self._max_images:
            raise InvalidArgument(f"images has {len(images)} entries, must be 1 to {self._max_images}")
        for index, image in enumerate(images):
            if not image:
                raise InvalidArgument(f"images[{index}] has 0 bytes, must be an encoded file")
