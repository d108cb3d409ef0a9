"""Four threads ask while one changes the model: no answer is wrong or torn, and nothing is left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from benchmarks.faults import threads
from benchmarks.faults.thread_scenes import SCENES, Scene, alone, bits, judged, known
from tests.versions import serving

FORWARDS = 64
"""A scene in the suite; benchmarks/faults/threads.py says how many its long form has."""
WRONG = ("wrong", "torn", "errors", "failures")


@pytest.fixture(autouse=True)
def _bounded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A scene that hangs fails within a minute, and the process is left as it was."""
    monkeypatch.setattr(threads, "SECONDS", 60.0)
    known()
    before = threading.active_count()
    with threads._one_thread_each():
        yield
    assert threading.active_count() <= before + 2  # a pool of the scene may still be there


@pytest.mark.parametrize("name", SCENES)
def test_every_answer_is_one_adapters_to_the_bit(name, tmp_path):
    """Beside every kind of change, and with memory, tensors and files as after the warm-up."""
    found = threads.played(SCENES[name](tmp_path), FORWARDS)
    assert {key: found[key] for key in WRONG} == dict.fromkeys(WRONG, 0), found
    assert found["forwards"] >= FORWARDS and found["changes"] >= FORWARDS // threads.PER_CHANGE
    assert found["refused"] == 0 or name == "merge"


def _scene(disturb, ask=None) -> Scene:
    model = serving(live=0)
    asked = ask or (lambda thread, dice: judged(bits(model, route="live"), (alone(0),)))
    return Scene(model, asked, lambda step: disturb(model, step), model.compact)


@torch.no_grad()
def _spoil(model, step) -> None:
    next(model.backbone.model.parameters()).add_(1.0)


def test_the_harness_sees_a_torn_answer():
    """The control: weights that are changed under those who ask."""
    found = threads.played(_scene(_spoil), FORWARDS)
    assert found["torn"] and not found["wrong"] and found["failures"] >= found["torn"]


def test_the_harness_sees_another_adapters_answer():
    """The control: a name that is given to another adapter is not the one that was asked."""
    other = serving(live=5)
    ask = lambda thread, dice: judged(bits(other, route="live"), (alone(0),))  # noqa: E731
    found = threads.played(_scene(lambda model, step: None, ask), FORWARDS)
    assert found["wrong"] >= FORWARDS and not found["torn"]


def test_the_harness_sees_what_is_left_behind():
    """The control: a tensor and an open file for every change."""
    kept: list[object] = []
    found = threads.played(_scene(lambda model, step: kept.extend([torch.zeros(1), open(__file__)])), FORWARDS)  # noqa: SIM115
    for file in kept[1::2]:
        file.close()  # type: ignore[attr-defined]
    assert found["grown_tensors"] > 0 and found["grown_files"] > 0 and found["failures"] == 1


def test_the_harness_sees_an_error():
    """The control: what a thread raises is counted, and the others go on."""

    def ask(thread: int, dice: object) -> None:
        if thread == 1:
            raise RuntimeError("a failure inside")

    found = threads.played(_scene(lambda model, step: None, ask), FORWARDS)
    assert found["errors"] > 0 and found["forwards"] >= FORWARDS
