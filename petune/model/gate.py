"""The gate of a backbone: calls pass side by side; a merge waits until they are through, and has it alone.

Merging changes the weights under everybody who runs. The gate belongs to the model itself, because several tuners may
share it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from weakref import WeakKeyDictionary

from torch import nn

from petune.errors import MergeError


class Gate:
    """Many readers or one writer; a writer who waits holds new readers back, so that it is not starved."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running = 0
        self._alone = False

    def enter(self) -> None:
        """A call begins; waits while a merge is waited for or at work."""
        with self._changed:
            while self._alone:
                self._changed.wait()
            self._running += 1

    def leave(self) -> None:
        """A call ends."""
        with self._changed:
            self._running -= 1
            if not self._running:
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, no call runs. Waits for those that do."""
        with self._changed:
            while self._alone:
                self._changed.wait()
            self._alone = True
        try:
            with self._changed:
                while self._running:
                    self._changed.wait()
            yield
        finally:  # also when the wait was broken off: calls that begin wait for this
            with self._changed:
                self._alone = False
                self._changed.notify_all()


_gates: WeakKeyDictionary[nn.Module, Gate] = WeakKeyDictionary()
_making = threading.Lock()
_inside: ContextVar[tuple[Gate, ...]] = ContextVar("petune_inside", default=())


def _gate_of(backbone: nn.Module) -> Gate:
    gate = _gates.get(backbone)
    if gate is None:
        with _making:
            gate = _gates.setdefault(backbone, Gate())
    return gate


@contextmanager
def running(backbone: nn.Module) -> Iterator[None]:
    """Around one call of a backbone. A call made inside another passes at once."""
    gate = _gate_of(backbone)
    held = _inside.get()
    if gate in held:
        yield
        return
    gate.enter()
    token = _inside.set((*held, gate))
    try:
        yield
    finally:
        _inside.reset(token)
        gate.leave()


@contextmanager
def changing(backbone: nn.Module) -> Iterator[None]:
    """Around a change of the backbone's weights or modules.

    Raises:
        MergeError: from inside a call of this backbone, which it would wait for forever.
    """
    gate = _gate_of(backbone)
    if gate in _inside.get():
        raise MergeError(
            "A call of this backbone is running here.",
            expected="Whoever changes its weights or modules waits for running calls to end.",
            fix="Merge or unmerge, and add or remove methods from peft, outside of hooks, callbacks and generation.",
        )
    with gate.alone():
        yield
