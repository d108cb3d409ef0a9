"""Which (method, family, task) cases the conformance laws run on.

In CI a pairwise covering array: every two of the three values that can go together do so in at least one case.
With `PETUNE_FULL=1` (`make test-full`) the whole product.
"""

from __future__ import annotations

import os
from itertools import combinations, product
from typing import NamedTuple

from tests.kinds import KINDS, METHODS

TASKS = tuple(KINDS)
FAMILIES = tuple(dict.fromkeys(family for kind in KINDS.values() for family in kind.families))
NO_TOKENS = tuple(family for family in FAMILIES if family not in KINDS["tokens"].families)
"""Families without token classification in transformers."""
NO_PREFIX = ("deberta-v2", "mpnet")
"""Families whose attention does not go through the registry; prefix tuning refuses them."""
READ_TWICE = ("t5", "bart", "marian", "mbart", "m2m_100")
"""Families whose classifiers read the text with their decoder as well; soft prompts are refused for those."""
READ_BY_BOTH = ("AutoModelForSequenceClassification", "AutoModelForQuestionAnswering")
"""The classes of those that do."""

__all__ = ["CASES", "METHODS", "TASKS", "Case", "everything", "pairs", "pairwise", "possible"]


class Case(NamedTuple):
    """One combination for the conformance laws."""

    method: str
    family: str
    task: str

    def __str__(self) -> str:
        return "-".join(self)


def possible(case: Case) -> bool:
    """Whether transformers and the method can do this at all."""
    kind = KINDS[case.task]
    if case.family not in kind.families or case.method not in kind.methods:
        return False
    if case.method == "prompt-tuning" and not _takes_prompts(case):
        return False
    return not (case.method == "prefix" and case.family in NO_PREFIX)


def _takes_prompts(case: Case) -> bool:
    """Whether a text is read, and read once."""
    task = KINDS[case.task].task()
    return bool(task.reads == "tokenizer") and not (case.family in READ_TWICE and task.auto_class in READ_BY_BOTH)


def everything() -> list[Case]:
    """The whole product, less what is impossible."""
    return [case for case in map(Case._make, product(METHODS, FAMILIES, TASKS)) if possible(case)]


def pairs(case: Case) -> set[tuple[str, str]]:
    """The three pairs that a case covers; a method, a family and a task never share a name."""
    return set(combinations(case, 2))


def pairwise() -> list[Case]:
    """A small covering array: greedily the case that covers most new pairs, the first such in the product's order.

    Ties go to the task used least so far, then to the method, so that none is left to a handful of cases.
    """
    left = everything()
    missing = set().union(*map(pairs, left))
    chosen: list[Case] = []
    while missing:
        used = [word for case in chosen for word in case]
        best = max(
            left, key=lambda case: (len(pairs(case) & missing), -used.count(case.task), -used.count(case.method))
        )
        chosen.append(best)
        left.remove(best)
        missing -= pairs(best)
    return sorted(chosen)


CASES = everything() if os.environ.get("PETUNE_FULL") == "1" else pairwise()
