"""The engine's three verbs: the scheduler picks a sequence, the runner runs its step, the output becomes events."""

import time
from collections.abc import AsyncGenerator

from services.llm.config import LlmConfig
from services.llm.detokenizer import Detokenizer
from services.llm.events import Event, Finish, HiddenStates, ImageEnd, ImageStart
from services.llm.runner import LlmRunner, Output, Piece, TokenIds
from services.llm.sampling import SamplingParams
from services.llm.scheduler import Scheduler
from services.llm.sequence import DrawImage, FinishReason, ImagePolicy, Prefill, Sequence
from triptych.card import Card, verify_digest
from triptych.errors import InvalidArgument
from triptych.models.placement import Placement
from triptych.serving.batching import Load, Timing
from triptych.serving.metrics import Metrics
from triptych.serving.stepping import StepLoop


class LlmEngine:
    """Sequences take turns, one step at a time; each has its own cache, sampler and text."""

    def __init__(self, config: LlmConfig, card: Card, placement: Placement, metrics: Metrics) -> None:
        self._config = config
        self._card = card
        self._placement = placement
        self._scheduler = Scheduler(config.max_num_seqs, config.max_queue_size)
        self._loop = StepLoop(
            "llm",
            self._scheduler,
            run=self._run,
            postprocess=self._postprocess,
            free=self._free,
            metrics=metrics,
            phase=lambda sequence: sequence.phase,
        )
        self._tokens = metrics.counter("tokens", "tokens run, of prompts and replies")
        self._prompt_tokens = metrics.counter("prompt_tokens", "tokens of prompts, pictures included")
        self._generated_tokens = metrics.counter("generated_tokens", "tokens of replies, those of pictures included")
        self._finished = metrics.counter("finished", "sequences that came to their end", ["reason"])
        self._first_token_ms = metrics.histogram_ms("first_token", "time from arrival to the first token")
        self._images = metrics.counter("images", "images handed over")
        self._detokenizers: dict[Sequence, Detokenizer] = {}

    @property
    def load(self) -> Load:
        return self._scheduler.load

    @property
    def num_caches(self) -> int:
        """Sequences that hold memory on the device."""
        return self._runner.num_held

    async def start(self) -> float:
        """Loads the component and returns the worst cosine over its probes; raises CheckpointError or ProbeError."""
        self._runner, cosine = await self._loop.start(self._load)
        return cosine

    async def generate(
        self, prompt: list[Piece], policy: ImagePolicy, sampling: SamplingParams, max_images: int, timing: Timing
    ) -> AsyncGenerator[Event, None]:
        """Ends with one Finish. Raises InvalidArgument for a prompt that does not fit, ResourceExhausted when full."""
        self._check_ids(prompt)
        sequence = Sequence(prompt, policy, sampling, max_images, self._runner.vocabulary)
        self._detokenizers[sequence] = Detokenizer(self._runner.decode, sampling.stop)
        events = self._loop.stream(sequence, timing)
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()
            self._detokenizers.pop(sequence)

    async def stop(self) -> None:
        await self._loop.stop()

    def _load(self) -> tuple[LlmRunner, float]:
        folder = self._config.checkpoint
        verify_digest(folder, self._card)
        runner = LlmRunner.load(folder, self._placement, self._card.fact("max_model_len", int))
        return runner, runner.check(self._card, folder)

    def _run(self, sequence: Sequence) -> Output:
        return self._runner.run(sequence)

    def _postprocess(self, sequence: Sequence, output: Output) -> list[Event]:
        detokenizer = self._detokenizers[sequence]
        events = self._drawn(sequence, output)
        self._tokens.inc(output.num_run)
        if isinstance(sequence.step, Prefill):
            self._first_token_ms.observe((time.perf_counter() - sequence.arrived) * 1000)
        if sequence.advance(output.num_run, output.next_id):
            events += detokenizer.add(output.next_id)
            if detokenizer.is_stopped:
                sequence.finish("stop")
        if sequence.finish_reason is not None:
            events += detokenizer.end()
            reason = "stop" if detokenizer.is_stopped else sequence.finish_reason
            self._count(sequence, reason)
            return [*events, _finish(sequence, reason)]
        if isinstance(sequence.step, DrawImage):
            events += [*detokenizer.pause(), ImageStart(sequence.step.index)]
        return events

    def _drawn(self, sequence: Sequence, output: Output) -> list[Event]:
        """The picture that the step just run has handed over, if it was one."""
        if not isinstance(sequence.step, DrawImage):
            return []
        assert output.hidden_states is not None
        assert output.embeddings is not None
        self._images.inc()
        index = sequence.step.index
        return [HiddenStates(index, output.hidden_states, output.embeddings), ImageEnd(index)]

    def _count(self, sequence: Sequence, reason: FinishReason) -> None:
        self._prompt_tokens.inc(sequence.num_prompt_tokens)
        self._generated_tokens.inc(len(sequence.token_ids))
        self._finished.labels(reason).inc()

    def _free(self, sequence: Sequence) -> None:
        self._runner.free(sequence)

    def _check_ids(self, prompt: list[Piece]) -> None:
        bound = self._runner.vocabulary_size - 1
        for index, piece in enumerate(prompt):
            for token_id in piece.ids if isinstance(piece, TokenIds) else ():
                if not 0 <= token_id <= bound:
                    raise InvalidArgument(f"prompt.segments[{index}].token_ids has {token_id}, must be 0 to {bound}")


def _finish(sequence: Sequence, reason: FinishReason) -> Finish:
    return Finish(reason, sequence.num_prompt_tokens, sequence.num_images, tuple(sequence.token_ids))
