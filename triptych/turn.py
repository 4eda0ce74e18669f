"""One turn of a conversation: what both clients do alike, whichever way they wait."""

from collections.abc import Sequence

from triptych.replies import Done, Event, Reply, ReplyReader
from triptych.requests import ImageSource, Params, Task, assistant_message, request_of, user_message
from triptych.v1 import orchestrator_pb2 as pb


class Turn:
    """Send `request`, `read` what comes. With its last event the turn joins `history`, not before."""

    def __init__(
        self, history: list[pb.Message], text: str, images: Sequence[ImageSource], task: Task, params: Params
    ) -> None:
        """Raises InvalidArgument for what cannot be sent."""
        self._history = history
        self._message = user_message(text, images)
        self._reader = ReplyReader()
        self.request = request_of([*history, self._message], task, params)

    def read(self, response: pb.RespondResponse) -> Event:
        event = self._reader.read(response)
        if isinstance(event, Done):
            self._history += [self._message, assistant_message(self.reply)]
        return event

    @property
    def reply(self) -> Reply:
        """Raises TriptychError when the stream ended early."""
        return self._reader.reply
