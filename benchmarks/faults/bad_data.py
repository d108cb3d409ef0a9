"""Bad, odd and unusual training data, each handed to `Tuner.fit` as a user would.

Of data that must be refused a refusal is *clear* when it is one of petune's errors, came before the first optimizer
step, names the place (file and line, row, column) and the cause, and says what was expected or how to mend it. *Late*:
a step was taken before. *Obscure*: any other error. *Silent*: the fit ended. Odd data must give exactly one warning,
with place and cause; unusual but right ones none. A control shows that the judge tells these apart: the same rows in a
fit whose checks are left out.
"""

from __future__ import annotations

import logging
import random
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.faults.data_fine import FINE
from benchmarks.faults.data_kinds import Kind, Verdict
from benchmarks.faults.data_odd import ODD
from benchmarks.faults.data_refused_files import REFUSED_FILES
from benchmarks.faults.data_refused_rows import REFUSED_ROWS
from petune import TrainConfig, Tuner
from petune.errors import PetuneError
from petune.training.callbacks import Callback, Row

COUNT = 500
"""At most so many kinds: all of them."""
KINDS: dict[Verdict, tuple[Kind, ...]] = {"refuse": (*REFUSED_FILES, *REFUSED_ROWS), "warn": ODD, "accept": FINE}
RIGHT: dict[Verdict, str] = {"refuse": "clear", "warn": "one warning", "accept": "no word"}
CONFIG = TrainConfig(epochs=1, batch_size=64, progress="off")
LONGEST_MESSAGE = 700
"""Characters, beyond which nobody reads."""


class Steps(Callback):
    """Counts optimizer steps."""

    taken = 0

    def on_step(self, row: Row) -> None:
        self.taken += 1


@dataclass
class Outcome:
    """What became of one fit."""

    error: BaseException | None = None
    steps: int = 0
    said: list[str] = field(default_factory=list)


def run(count: int = COUNT, seed: int = 0) -> dict[str, Any]:
    """Tries kinds of data; counts by verdict, and the names of those that came out wrong."""
    drawn = [(verdict, kind) for verdict, kinds in KINDS.items() for kind in kinds]
    drawn = drawn if count >= len(drawn) else random.Random(seed).sample(drawn, count)
    counts: dict[Verdict, Counter[str]] = {verdict: Counter() for verdict in KINDS}
    wrong: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (verdict, kind) in enumerate(drawn):
            place = Path(folder, str(number))
            place.mkdir()
            outcome = tried(kind, place)
            found = judged(verdict, kind, outcome)
            counts[verdict][found] += 1
            if found != RIGHT[verdict]:
                wrong[f"{verdict}: {kind.name}"] = f"{found}: {outcome.error or outcome.said}"[:LONGEST_MESSAGE]
    return {
        "kinds": len(drawn),
        **{verdict: {"kinds": counted.total(), **counted} for verdict, counted in counts.items()},
        "failures": len(wrong),
        "wrong": wrong,
    }


def tried(kind: Kind, folder: Path) -> Outcome:
    """One fit on one kind of data, on a fresh tiny backbone."""
    outcome, steps = Outcome(), Steps()
    model, tokenizer = _backbone(kind.backbone)
    with _listening(outcome.said):
        try:
            data = kind.give(folder)
            evaluation = kind.evaluation(folder) if callable(kind.evaluation) else kind.evaluation
            Tuner(model, tokenizer=tokenizer, task=kind.task).fit(data, evaluation, CONFIG, callbacks=[steps])
        except Exception as error:
            outcome.error = error
    outcome.steps = steps.taken
    return outcome


def judged(verdict: Verdict, kind: Kind, outcome: Outcome) -> str:
    """The class of an outcome; `RIGHT` says which one it should be.

    Example:
        >>> kind = Kind("blank", lambda folder: None, "row 6", "empty")
        >>> judged("refuse", kind, Outcome(ValueError("index out of range"), steps=4))
        'late'
        >>> judged("refuse", kind, Outcome(steps=1)), judged("warn", kind, Outcome(steps=1, said=["row 6 is empty"]))
        ('silent', 'one warning')
    """
    if outcome.error is not None:
        if outcome.steps:
            return "late"
        return "clear" if _is_clear(kind, outcome.error) else "obscure"
    if not outcome.said:
        return "no word" if verdict == "accept" and outcome.steps else "silent"
    if verdict != "warn" or len(outcome.said) > 1:
        return "warned" if verdict != "warn" else "several warnings"
    return "one warning" if _names(kind, outcome.said[0]) and outcome.steps else "obscure warning"


def _is_clear(kind: Kind, error: BaseException) -> bool:
    helps = isinstance(error, PetuneError) and bool(error.expected or error.fix)
    return helps and len(str(error)) <= LONGEST_MESSAGE and _names(kind, str(error))


def _names(kind: Kind, message: str) -> bool:
    return all(re.search(words, message, re.DOTALL) for words in (kind.where, kind.cause))


@contextmanager
def _listening(said: list[str]) -> Iterator[None]:
    """Collects the warnings of the logger `petune`, and Python's."""
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("petune")
    logger.addHandler(handler)
    passed, logger.propagate = logger.propagate, False
    try:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            yield
        said.extend(str(one.message) for one in heard)
    finally:
        logger.removeHandler(handler)
        logger.propagate = passed


def _backbone(family: str) -> tuple[Any, Any]:
    """A tiny model of one block, and its tokenizer."""
    from tests import tiny
    from tests.language import language_model

    if family in ("bert", "few pieces"):
        changes = {"vocab_size": 20} if family == "few pieces" else {}
        return tiny.backbone("bert", num_hidden_layers=1, **changes), _tokenizer("bert")
    return language_model(family), _tokenizer(family)


@cache
def _tokenizer(family: str) -> Any:
    from tests import tiny

    return tiny.tokenizer(family)
