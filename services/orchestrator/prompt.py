"""The LLM's prompt: the card's template lays out the conversation, embeddings stand where the pictures are."""

from collections.abc import Mapping, Sequence
from typing import Final

from services.orchestrator.cache import Embeddings
from services.orchestrator.facts import LlmFacts
from services.orchestrator.request import Request, drawn_seed
from services.orchestrator.routing import Route
from triptych.prompts import ImageSlot, Segment, Special, Task
from triptych.tensors import DTypeName, to_messages
from triptych.v1 import llm_pb2, tensor_pb2

POLICIES: Final[dict[Task, llm_pb2.ImagePolicy.ValueType]] = {
    "auto": llm_pb2.IMAGE_POLICY_ALLOW,
    "understand": llm_pb2.IMAGE_POLICY_FORBID,
    "generate": llm_pb2.IMAGE_POLICY_FORCE,
    "edit": llm_pb2.IMAGE_POLICY_FORCE,
}


def segments_of(request: Request, route: Route) -> list[Segment]:
    """The sequence as the chosen LLM was trained to read it."""
    return LlmFacts.of(route.llm.card).template.segments(list(request.messages), list(request.tasks))


def pictures_in(segments: Sequence[Segment]) -> list[int]:
    """The indices of the pictures that the sequence shows, each once."""
    return sorted({segment.index for segment in segments if isinstance(segment, ImageSlot)})


def build(
    request: Request, route: Route, segments: Sequence[Segment], embeddings: Mapping[int, Embeddings]
) -> tuple[llm_pb2.Prompt, list[tensor_pb2.TensorChunk]]:
    """The Prompt, always with a seed, and the chunks that must follow it in segment order."""
    dtype: DTypeName = "bf16" if route.llm.card.input("embeddings").dtype == "bf16" else "f32"
    prompt = llm_pb2.Prompt(
        sampling=request.sampling,
        image_policy=POLICIES[request.task] if route.decoder else llm_pb2.IMAGE_POLICY_FORBID,
        embeddings_space=route.encoder.card.output("embeddings").space if route.encoder else "",
        max_images=request.image_params.max_images,
    )
    if not prompt.sampling.HasField("seed"):
        prompt.sampling.seed = drawn_seed()
    chunks: list[tensor_pb2.TensorChunk] = []
    for segment in segments:
        if isinstance(segment, ImageSlot):
            header, following = to_messages(embeddings[segment.index], dtype)
            prompt.segments.add(embeddings=header)
            chunks += following
        elif isinstance(segment, Special):
            prompt.segments.add(special_token=segment.token)
        else:
            prompt.segments.add(text=segment.text)
    return prompt, chunks
