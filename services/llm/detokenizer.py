"""Token ids to text as they come, never half a character and never part of a stop string. Plain Python."""

from collections.abc import Callable, Sequence

from services.llm.events import TextDelta

REPLACEMENT = "\ufffd"  # what a tokenizer decodes an unfinished character to


class Detokenizer:
    """All deltas together are the text up to the first stop string, without white space at either end."""

    def __init__(self, decode: Callable[[list[int]], str], stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stop = stop
        self._ids: list[int] = []
        self._context = 0  # decoding starts here: some tokenizers spell a token by its neighbours
        self._decoded = 0  # ids up to here are in the text
        self._held = ""  # decoded, but perhaps the start of a stop string, or white space at the end
        self._settled = 0  # of the held text: stands before a picture, so no stop string begins in it
        self._is_first = True
        self._unsent_ids: list[int] = []
        self.is_stopped = False

    def add(self, token_id: int) -> list[TextDelta]:
        """What is certain now: nothing or one delta. Sets `is_stopped` when a stop string is complete."""
        self._ids.append(token_id)
        self._unsent_ids.append(token_id)
        self._hold(self._new_text(is_last=False))
        return self._release(len(self._held) - self._num_in_doubt())

    def pause(self) -> list[TextDelta]:
        """Before a picture: no stop string reaches across it."""
        deltas = self._release(len(self._held))
        self._settled = len(self._held)
        return deltas

    def end(self) -> list[TextDelta]:
        """The rest. May complete a stop string, too: one that shares its last token with an unfinished character."""
        if not self.is_stopped:
            self._hold(self._new_text(is_last=True))
        return self._release(len(self._held))

    def _new_text(self, *, is_last: bool) -> str:
        known = self._decode(self._ids[self._context : self._decoded])
        text = self._decode(self._ids[self._context :])
        if text.endswith(REPLACEMENT) and not is_last:
            return ""
        self._context, self._decoded = self._decoded, len(self._ids)
        return text[len(known) :]

    def _hold(self, text: str) -> None:
        """Cuts at a complete stop string."""
        self._held += text
        found = [at for stop in self._stop if (at := self._held.find(stop, self._settled)) >= 0]
        if found:
            self.is_stopped = True
            self._held = self._held[: min(found)]

    def _num_in_doubt(self) -> int:
        """Length of the longest end of the held text that may grow into a stop string."""
        if self.is_stopped:
            return 0
        held = self._held[self._settled :]
        ends = (n for stop in self._stop for n in range(len(stop) - 1, 0, -1) if held.endswith(stop[:n]))
        return max(ends, default=0)

    def _release(self, length: int) -> list[TextDelta]:
        text = self._held[:length].rstrip()
        self._held = self._held[len(text) :]
        self._settled = max(0, self._settled - len(text))
        if self._is_first:
            text = text.lstrip()
        if not text:
            return []
        self._is_first = False
        delta = TextDelta(text, tuple(self._unsent_ids))
        self._unsent_ids.clear()
        return [delta]
