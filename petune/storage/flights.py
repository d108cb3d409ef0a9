"""Single flight: work that several threads want at once is done by one of them, and the others get what came of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

Outcome = TypeVar("Outcome")


class Flights(Generic[Outcome]):
    """Work by key; what is done for different keys runs side by side.

    Examples:
        >>> Flights().once("a", lambda: 1)
        1
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[Hashable, Future[tuple[Outcome, ...]]] = {}

    def __deepcopy__(self, memo: object) -> Flights[Outcome]:
        return Flights()  # what runs, runs for the original

    def once(self, key: Hashable, work: Callable[[], Outcome], *, anew: bool = False) -> Outcome:
        """Does the work, or waits for the thread that is at it and gives its outcome.

        Args:
            anew: work that began before this call does not count; it is waited for, and then done again.

        Raises:
            Exception: what `work` raised in this thread. Where it raised in another one, this thread tries itself.
        """
        while True:
            with self._lock:
                running = self._running.get(key)
                if running is None:
                    mine = self._running[key] = Future()
                    break
            outcome = running.result()
            if outcome and not anew:
                return outcome[0]
        found: tuple[Outcome, ...] = ()
        try:
            found = (work(),)
            return found[0]
        finally:
            with self._lock:
                del self._running[key]
            mine.set_result(found)
