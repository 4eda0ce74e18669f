import asyncio
from contextlib import AsyncExitStack

import pytest

from services.orchestrator.admission import Admission
from tests.services.orchestrator.fakes import until
from triptych.errors import ResourceExhausted


async def test_messages_of_those_running_and_waiting_are_counted() -> None:
    admission = Admission(max_running=1, max_waiting=8, max_bytes=100)

    async def wait() -> None:
        async with admission.admitted(60):
            pass

    async with admission.admitted(40):
        waiting = asyncio.create_task(wait())
        await until(lambda: admission.num_waiting == 1)
        with pytest.raises(ResourceExhausted, match="have 100 bytes, with 1 more .* more than 100") as caught:
            await admission.admitted(1).__aenter__()
        assert caught.value.retry_after_ms > 0
        waiting.cancel()
        await asyncio.wait((waiting,))
        assert admission.num_bytes == 40, "one who gives up gives its bytes back"
        waiting = asyncio.create_task(wait())
        await until(lambda: admission.num_waiting == 1)
    await waiting
    assert (admission.num_running, admission.num_waiting, admission.num_bytes) == (0, 0, 0)


async def test_a_message_above_the_bound_comes_in_alone() -> None:
    admission = Admission(max_running=8, max_waiting=8, max_bytes=100)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(admission.admitted(5000))
        with pytest.raises(ResourceExhausted):
            await admission.admitted(1).__aenter__()
    async with admission.admitted(1):
        with pytest.raises(ResourceExhausted):
            await admission.admitted(5000).__aenter__()
