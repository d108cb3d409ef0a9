"""Ctrl-C and SIGTERM, taken over for a while: noted, not obeyed at once."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

HEEDED = (signal.SIGINT, signal.SIGTERM)
IMPATIENT_SECONDS = 1.0
"""Launchers hand Ctrl-C on to processes that had it already: only a later one is a second one, which waits no more."""


class Heed:
    """The signal that came first, 0 while none has; a second Ctrl-C, a moment later, is obeyed.

    Args:
        then: called with the first signal, in its handler.
    """

    def __init__(self, then: Callable[[int], None] = lambda number: None) -> None:
        self._then = then
        self.asked, self._since = 0, 0.0
        self._before: dict[int, Any] = {}

    def begin(self) -> None:
        """Takes the signals over, where that is possible: in the main thread, and if nobody ignores them."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in HEEDED:
            if (before := signal.getsignal(number)) not in (signal.SIG_IGN, None):
                self._before[number] = before
                signal.signal(number, self._note)

    def end(self) -> None:
        """Gives the signals back to whom they were taken from."""
        for number, before in self._before.items():
            signal.signal(number, before)

    def handler(self) -> Any:
        """What the program itself had for the signal that came; None: nothing."""
        return self._before.get(self.asked)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.asked:
            self.asked, self._since = number, now
            self._then(number)
        elif number == signal.SIGINT and now - self._since > IMPATIENT_SECONDS:
            raise KeyboardInterrupt


def ending(number: int, told: Sequence[str]) -> BaseException:
    """What ends the program as the signal would; `told` is noted on it.

    Examples:
        >>> ending(signal.SIGTERM, ["Saved."]).code
        143
    """
    if number == signal.SIGINT:
        return KeyboardInterrupt(" ".join(told))
    error = SystemExit(128 + number)
    for line in told:
        error.add_note(line)
    return error
