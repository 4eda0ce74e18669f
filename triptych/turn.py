"""A conversation's memory, and one turn of it: what both clients do alike, whichever way they wait."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from triptych.replies import Done, Event, Reply, ReplyReader
from triptych.requests import ImageSource, Params, Task, assistant_message, request_of, user_message
from triptych.v1 import orchestrator_pb2 as pb


@dataclass
class History:
    """`chain`: digests of the cards that served the last turn; the next one stays with them where they still serve."""

    messages: list[pb.Message] = field(default_factory=list)
    chain: tuple[str, ...] = ()


class Turn:
    """Send `request`, `read` what comes. With its last event the turn joins `history`, not before."""

    def __init__(self, history: History, text: str, images: Sequence[ImageSource], task: Task, params: Params) -> None:
        """Raises InvalidArgument for what cannot be sent."""
        self._history = history
        self._message = user_message(text, images)
        self._reader = ReplyReader()
        self.request = request_of([*history.messages, self._message], task, params, history.chain)

    def read(self, response: pb.RespondResponse) -> Event:
        event = self._reader.read(response)
        if isinstance(event, Done):
            self._history.messages += [self._message, assistant_message(self.reply)]
            self._history.chain = tuple(dict.fromkeys(served.digest for served in event.served_by))
        return event

    @property
    def reply(self) -> Reply:
        """Raises TriptychError when the stream ended early."""
        return self._reader.reply
