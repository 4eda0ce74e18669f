"""What every call gets: status codes, request ids, one log line, metrics, prompt cleanup."""

import asyncio
import gc
import logging
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from tests.triptych.serving.harness import Encoder, Llm, serving
from triptych import errors
from triptych.serving import request_id
from triptych.serving.calls import Calls
from triptych.serving.channels import open_channel
from triptych.serving.interceptors import CallInterceptor
from triptych.serving.metrics import Metrics
from triptych.status import error_from_rpc
from triptych.v1 import encoder_pb2, encoder_pb2_grpc, llm_pb2, llm_pb2_grpc

TWO_IMAGES = encoder_pb2.EncodeRequest(images=[b"1", b"2"])


async def prompts(*texts: str) -> AsyncIterator[llm_pb2.GenerateRequest]:
    for text in texts:
        yield llm_pb2.GenerateRequest(prompt=llm_pb2.Prompt(segments=[llm_pb2.Segment(text=text)]))


async def echo(requests: Any) -> AsyncIterator[str]:
    async for request in requests:
        yield request.prompt.segments[0].text


def lines(caplog: pytest.LogCaptureFixture) -> list[Any]:
    return [record for record in caplog.records if record.getMessage() == "call" and record.levelno == logging.INFO]


async def failing_call(error: Exception, seen: int = 2) -> grpc.aio.AioRpcError:
    """The status of a call whose handler raises `error` after two messages."""
    received = []
    async with serving(encoder=Encoder(error)) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for response in encoder_pb2_grpc.EncoderServiceStub(channel).Encode(TWO_IMAGES):
                received.append(response)
    assert len(received) == seen
    return caught.value


@pytest.mark.parametrize(
    "kind",
    [
        errors.InvalidArgument,
        errors.FailedPrecondition,
        errors.ResourceExhausted,
        errors.Unavailable,
        errors.DeadlineExceeded,
        errors.Cancelled,
        errors.Unimplemented,
    ],
)
async def test_errors_keep_their_status_and_their_facts(kind: type[errors.TriptychError]) -> None:
    status = await failing_call(kind("why", stage="decoder", replica="r7", retry_after_ms=250))
    assert (status.code().name, status.details()) == (kind.code, "why")
    error = error_from_rpc(status)
    assert type(error) is kind
    assert (str(error), error.stage, error.replica, error.retry_after_ms) == ("why", "decoder", "r7", 250)


@pytest.mark.parametrize("letter", ["x", "é", "🎈"])
async def test_a_long_value_does_not_cost_the_status(letter: str) -> None:
    status = await failing_call(errors.InvalidArgument(f"name is {letter * 100_000}, must be known", stage="decoder"))
    assert status.code() is grpc.StatusCode.INVALID_ARGUMENT
    details = str(status.details())
    assert details.startswith(f"name is {letter}")
    assert details.endswith(f"{letter}, must be known")
    assert error_from_rpc(status).stage == "decoder"


async def test_stage_and_replica_default_to_this_process() -> None:
    error = error_from_rpc(await failing_call(errors.InvalidArgument("top_k is -1")))
    assert (error.stage, error.replica, error.retry_after_ms) == ("llm", "r1", 0)


async def test_a_checkpoint_error_arrives_as_failed_precondition() -> None:
    status = await failing_call(errors.CheckpointError("card.json is missing"))
    assert isinstance(error_from_rpc(status), errors.FailedPrecondition)


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("secret path"), KeyError("secret"), errors.TriptychError("our bug")]
)
async def test_a_bug_is_internal_and_leaks_nothing(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    status = await failing_call(error)
    request = dict(status.trailing_metadata() or ())[request_id.KEY]
    assert status.code() is grpc.StatusCode.INTERNAL
    assert f"request id {request}" in (status.details() or "")
    assert "secret" not in (status.details() or "")
    assert [r.exc_info[1] for r in caplog.records if r.exc_info] == [error]


async def test_a_refused_request_is_let_go_without_the_garbage_collector() -> None:
    requests = []

    class Refusing(Encoder):
        async def Encode(self, request: Any, context: Any) -> AsyncIterator[encoder_pb2.EncodeResponse]:
            requests.append(request)
            try:
                raise ZeroDivisionError
            except ZeroDivisionError as error:
                raise errors.ResourceExhausted("full") from error
            yield

    gc.disable()
    try:
        async with serving(encoder=Refusing()) as (_, channel):
            with pytest.raises(grpc.aio.AioRpcError):
                await anext(aiter(encoder_pb2_grpc.EncoderServiceStub(channel).Encode(TWO_IMAGES)))
            await asyncio.sleep(0.1)
            num_references = sys.getrefcount(requests[0])
        assert num_references == 2, "the list, and the question itself"
    finally:
        gc.enable()


async def test_what_nobody_wrote_is_unimplemented() -> None:
    async with serving() as (_, channel):
        with pytest.raises(
            grpc.aio.AioRpcError, match=r"/triptych\.v1\.LlmService/Generate is not implemented"
        ) as caught:
            await anext(aiter(llm_pb2_grpc.LlmServiceStub(channel).Generate(prompts("a"))))
        unknown: Any = channel.unary_unary("/triptych.v1.LlmService/Nothing")
        with pytest.raises(grpc.aio.AioRpcError) as unknown_caught:
            await unknown(b"")
    assert caught.value.code() is unknown_caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_errors_on_a_bidirectional_stream() -> None:
    async def refuse(requests: Any) -> AsyncIterator[str]:
        async for request in requests:
            yield request.prompt.segments[0].text
            raise errors.ResourceExhausted("queue is full", retry_after_ms=5)

    async with serving(Llm(refuse)) as (_, channel):
        call = llm_pb2_grpc.LlmServiceStub(channel).Generate(prompts("a", "b"))
        assert (await anext(aiter(call))).text.text == "a"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(aiter(call))
    assert error_from_rpc(caught.value).retry_after_ms == 5


async def test_the_request_id_goes_through(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def tell(requests: Any) -> AsyncIterator[str]:
        yield request_id.current.get()

    async with serving(Llm(tell)) as (_, channel):
        request_id.current.set("abc123")
        call = llm_pb2_grpc.LlmServiceStub(channel).Generate(prompts("a"))
        assert [response.text.text async for response in call] == ["abc123"]
        assert dict(await call.trailing_metadata())[request_id.KEY] == "abc123"
        request_id.current.set("")


async def test_the_request_id_goes_on_downstream() -> None:
    async def tell(requests: Any) -> AsyncIterator[str]:
        yield request_id.current.get()

    async with serving(Llm(tell)) as (_, behind):

        async def relay(requests: Any) -> AsyncIterator[str]:
            async for response in llm_pb2_grpc.LlmServiceStub(behind).Generate(requests):
                yield response.text.text

        async with serving(Llm(relay)) as (_, front):
            call = llm_pb2_grpc.LlmServiceStub(front).Generate(prompts("a"), metadata=((request_id.KEY, "seen-twice"),))
            assert [response.text.text async for response in call] == ["seen-twice"]


async def test_a_request_id_is_made_where_none_or_a_huge_one_came() -> None:
    async with serving(Llm(echo)) as (_, channel):
        made = []
        for metadata in ((), ((request_id.KEY, "x" * 500),)):
            call = llm_pb2_grpc.LlmServiceStub(channel).Generate(prompts("a"), metadata=metadata)
            assert [response.text.text async for response in call] == ["a"]
            made.append(dict(await call.trailing_metadata())[request_id.KEY])
    assert len(set(made)) == 2
    assert all(len(request) == 16 for request in made)


async def test_one_line_and_one_count_per_call(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    metrics = Metrics("llm")
    async with serving(Llm(echo), Encoder(errors.InvalidArgument("no")), metrics=metrics) as (_, channel):
        call = llm_pb2_grpc.LlmServiceStub(channel).Generate(prompts("a", "b"))
        assert [response.text.text async for response in call] == ["a", "b"]
        with pytest.raises(grpc.aio.AioRpcError):
            await anext(aiter(encoder_pb2_grpc.EncoderServiceStub(channel).Encode(encoder_pb2.EncodeRequest())))
    written = [(record.method, record.status) for record in lines(caplog)]
    generate, encode = "/triptych.v1.LlmService/Generate", "/triptych.v1.EncoderService/Encode"
    assert written == [(generate, "OK"), (encode, "INVALID_ARGUMENT")]
    assert all(record.duration_ms >= 0 for record in lines(caplog))
    sample = metrics.registry.get_sample_value
    assert sample("triptych_llm_calls_total", {"method": generate, "code": "OK"}) == 1
    assert sample("triptych_llm_calls_total", {"method": encode, "code": "INVALID_ARGUMENT"}) == 1
    assert sample("triptych_llm_call_ms_count", {"method": generate}) == 1
    assert sample("triptych_llm_calls_running") == 0


async def endless(requests: Any) -> AsyncIterator[str]:
    while True:
        yield "x"
        await asyncio.sleep(0.01)


async def silent(requests: Any) -> AsyncIterator[str]:
    await asyncio.sleep(60)
    yield "never"


@pytest.mark.parametrize("behavior", [endless, silent])
@pytest.mark.parametrize("how", ["cancel", "deadline", "disconnect"])
async def test_an_abandoned_call_is_dropped_at_once(how: str, behavior: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    llm = Llm(behavior)
    async with serving(llm) as (server, _):
        own = open_channel(server.address, 2**20)
        call = llm_pb2_grpc.LlmServiceStub(own).Generate(prompts("a"), timeout=0.3 if how == "deadline" else 60)
        reading = asyncio.create_task(_read(call))
        await asyncio.sleep(0.15)
        if how == "cancel":
            call.cancel()
        elif how == "disconnect":
            await own.close()
        await asyncio.wait_for(llm.closed.wait(), 2)
        reading.cancel()
        await asyncio.wait((reading,))
        await own.close()
        await asyncio.sleep(0.05)
    expected = {"DEADLINE_EXCEEDED", "CANCELLED"} if how == "deadline" else {"CANCELLED"}
    assert [record.status in expected for record in lines(caplog)] == [True]


@pytest.mark.parametrize(("left_s", "code"), [(0, "DEADLINE_EXCEEDED"), (0.5, "CANCELLED"), (None, "CANCELLED")])
async def test_a_call_past_its_deadline_is_told_from_one_that_was_cancelled(left_s: float | None, code: str) -> None:
    class Context:
        """gRPC says 0 once the deadline has passed, and that the call's code is OK."""

        code = staticmethod(lambda: 0)
        time_remaining = staticmethod(lambda: left_s)
        add_done_callback = staticmethod(lambda callback: None)

    metrics = Metrics("llm")
    context: Any = Context()
    with pytest.raises(asyncio.CancelledError):
        async with CallInterceptor(Calls(), metrics).around("/llm/Generate", context):
            raise asyncio.CancelledError
    calls = metrics.registry.get_sample_value("triptych_llm_calls_total", {"method": "/llm/Generate", "code": code})
    assert calls == 1


async def _read(call: Any) -> None:
    async for _ in call:
        pass


async def test_leaving_the_loop_early_cancels_the_call() -> None:
    llm = Llm(endless)
    async with serving(llm) as (_, channel):
        call = llm_pb2_grpc.LlmServiceStub(channel).Generate(prompts("a"))
        async for response in call:
            assert response.text.text == "x"
            break
        call.cancel()
        await asyncio.wait_for(llm.closed.wait(), 2)
        assert llm.closed.is_set()


async def test_a_slow_reader_that_is_cancelled_between_two_messages() -> None:
    llm = Llm(endless)
    async with serving(llm) as (_, channel):
        call = llm_pb2_grpc.LlmServiceStub(channel).Generate(prompts("a"))
        await anext(aiter(call))
        await asyncio.sleep(0.2)  # the handler is now somewhere between a yield and the wire
        call.cancel()
        await asyncio.wait_for(llm.closed.wait(), 2)
        assert call.cancelled()


async def test_messages_above_the_limit_are_refused_on_purpose() -> None:
    async with serving() as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            request = encoder_pb2.EncodeRequest(images=[bytes(2**20 + 1)])
            await anext(aiter(encoder_pb2_grpc.EncoderServiceStub(channel).Encode(request)))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
