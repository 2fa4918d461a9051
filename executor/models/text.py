"""The text of an answer, as its tokens come."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from executor.models.tokenizer import TextStream


class Text:
    """The text of an answer: told tokens, it passes on what is sure and watches for stop texts."""

    def __init__(
        self, stream: TextStream, stop: Sequence[str], tell: Callable[[str], None]
    ) -> None:
        self._stream, self._stop, self._tell = stream, [text for text in stop if text], tell
        self._held = ""
        """Text that may be the beginning of a stop text."""
        self.stopped = False
        self.tokens = 0
        """Taken in, up to the stop text."""

    def push(self, token: int) -> bool:
        """Take in a token; True if a stop text is there."""
        if not self.stopped:
            self.tokens += 1
            self._take(self._stream.push(token))
        return self.stopped

    def finish(self) -> None:
        """Pass on what is left."""
        if not self.stopped:
            self._take(self._stream.finish())
        if not self.stopped:
            self._tell(self._held)

    def _take(self, text: str) -> None:
        self._held += text
        found = [place for stop in self._stop if (place := self._held.find(stop)) >= 0]
        if found:
            self._tell(self._held[: min(found)])
            self.stopped = True
            return
        kept = max((_overlap(self._held, stop) for stop in self._stop), default=0)
        sure = len(self._held) - kept
        self._tell(self._held[:sure])
        self._held = self._held[sure:]


# -- inside ---------------------------------------------------------------------------------------


def _overlap(text: str, stop: str) -> int:
    """Longest end of `text` that is a beginning of `stop`, but not all of it."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
