"""What is done with a bad adapter folder, on a live model: an error that is clear, or not, or none; and its price."""

from __future__ import annotations

import importlib
import logging
import os
import re
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoModel

from benchmarks.faults.adapter_folder import by_peft, good, put
from benchmarks.faults.bad_files import MARKER
from petune import AdaptedModel, Tuner
from petune.errors import PetuneError
from petune.model.backbone import Backbone
from tests import tiny

SLOWEST = 2.0
"""Seconds of processor time in which an error has to come."""
PATIENCE = 30
"""Seconds after which a load counts as hanging."""
IDS = torch.tensor([[2, 17, 23, 5, 3], [2, 40, 9, 3, 0]])


class Verdict(NamedTuple):
    """What one load came to.

    Args:
        outcome: `clear`, `obscure`, `slow`, `warning only`, `silent` or `hang`.
        executed: a payload ran.
        changed: the live model answers otherwise, or has other adapters.
    """

    outcome: str
    message: str
    executed: bool = False
    changed: bool = False


class _HangError(BaseException):
    """The patience is over."""


class Bench:
    """A model with a live adapter, and the three ways in which a folder reaches it.

    Args:
        place: an empty folder to work in.
    """

    def __init__(self, place: Path) -> None:
        self.place, self.count = place, 0
        self.marker = place / "executed"
        os.environ[MARKER] = str(self.marker)
        put(place / "good", good())
        self.tokenizer = tiny.tokenizer("bert")
        self.tokenizer.save_pretrained(place / "backbone")
        tiny.backbone("bert").save_pretrained(place / "backbone")
        # Another object than the live model's; opened once, because that takes longer than to load an adapter.
        self.backbone: Any = Backbone.open(AutoModel.from_pretrained(place / "backbone"))
        importlib.import_module("peft")  # its import is no part of a load
        self._settle()

    def _settle(self) -> None:
        self.model = AdaptedModel(tiny.backbone("bert"), self.tokenizer).add("live", self.place / "good")
        self.before = self._state()

    def _state(self) -> tuple[tuple[str, ...], list[Tensor]]:
        """The adapters, and what the model answers with the live one and without any."""
        inputs = {"input_ids": IDS, "attention_mask": (IDS != 0).long()}
        with torch.no_grad():
            live = self.model(**inputs, route="live").logits
            return self.model.names, [live, self.model(**inputs, route=None).last_hidden_state]

    def surfaces(self) -> dict[str, Callable[[Path], object]]:
        """Name -> how a folder is loaded."""
        return {
            "load": lambda folder: Tuner.load(folder, backbone=self.backbone),
            "load into a live model": lambda folder: self.model.add("new", folder),
            "hot swap": lambda folder: self.model.replace("live", folder),
        }

    def try_folder(self, surface: str, make: Callable[[Path], object], words: str, path: str = "") -> Verdict:
        """Makes a folder, loads it, and judges what came."""
        self.count += 1
        folder = self.place / f"case{self.count:05d}"
        make(folder)
        opened = Path(f"{folder}/{path}") if path else folder
        outcome, message = judged(lambda: self.surfaces()[surface](opened), str(folder), words)
        changed = not same(self._state(), self.before)
        verdict = Verdict(outcome, message, self.marker.exists(), changed)
        if changed or outcome in ("silent", "warning only", "hang") or verdict.executed:
            self.marker.unlink(missing_ok=True)
            self._settle()
        return verdict


def same(now: tuple[tuple[str, ...], list[Tensor]], before: tuple[tuple[str, ...], list[Tensor]]) -> bool:
    """The same adapters and the same bits."""
    return now[0] == before[0] and all(map(torch.equal, now[1], before[1]))


def judged(work: Callable[[], Any], folder: str, words: str) -> tuple[str, str]:
    """What some work that must fail came to, and its message."""
    started = time.process_time()
    with listening() as heard:
        try:
            with patience():
                work()
        except _HangError:
            return "hang", f"nothing after {PATIENCE} seconds"
        except Exception as error:
            seconds, message = time.process_time() - started, f"{type(error).__name__}: {error}"
            clear = isinstance(error, PetuneError) and folder in message and bool(error.fix)
            if not clear or not re.search(words, message, re.DOTALL):
                return "obscure", message
            return ("clear" if seconds < SLOWEST else "slow"), f"{message} ({seconds:.1f} s)"
    return ("warning only" if heard else "silent"), "; ".join(heard)


@contextmanager
def listening() -> Iterator[list[str]]:
    """What is said through warnings and petune's log."""
    heard: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.getMessage())

    ear, log = Ear(logging.WARNING), logging.getLogger("petune")
    log.addHandler(ear)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            yield heard
            heard += [str(warning.message) for warning in warned]
    finally:
        log.removeHandler(ear)


@contextmanager
def patience() -> Iterator[None]:
    """Ends the block when it takes too long; outside of the main thread, where no alarm rings, it only waits."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def over(number: int, frame: FrameType | None) -> None:
        raise _HangError

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def good_folders(place: Path) -> dict[str, Path]:
    """Name -> a folder that must load, bit for bit."""
    made = {name: place / name for name in ("as saved", "edited by hand", "by peft", "with a byte-order mark")}
    put(made["as saved"], good())
    put(made["edited by hand"], {**good(), "README.md": b"# mine", "notes.txt": b"\xff", "history.jsonl": b"no json\n"})
    put(made["by peft"], by_peft())
    put(
        made["with a byte-order mark"],
        {name: b"\xef\xbb\xbf" * name.endswith("config.json") + data for name, data in by_peft().items()},
    )
    hub = place / "models--owner--name"
    put(hub / "blobs", {f"{i:064d}": data for i, data in enumerate(good().values())})
    made["in the hub's cache"] = hub / "snapshots" / "main"
    made["in the hub's cache"].mkdir(parents=True)
    for i, name in enumerate(good()):
        (made["in the hub's cache"] / name).symlink_to(f"../../blobs/{i:064d}")
    made["through a link"] = place / "link"
    made["through a link"].symlink_to(made["as saved"])
    made["with tensors alone"] = place / "alone"
    put(made["with tensors alone"], {"adapter_model.safetensors": good()["adapter_model.safetensors"]})
    return made
