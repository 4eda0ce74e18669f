"""Two turns, event by event: the second one edits what the first one drew. python examples/chat_stream.py out.png."""

import asyncio
import sys

from triptych.client import AsyncClient
from triptych.replies import Drawing, TextDelta


async def main(path: str) -> None:
    async with AsyncClient() as client:
        chat = client.chat()
        await chat.send("draw a red circle", task="generate")
        async for event in chat.stream("make it blue", task="edit"):
            if isinstance(event, TextDelta):
                print(event.text, end="", flush=True)
            elif isinstance(event, Drawing):
                event.save(path)
                print(path)


asyncio.run(main(sys.argv[1]))
