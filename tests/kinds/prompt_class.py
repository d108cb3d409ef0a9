"""Labels told by words of a decoder, which has no head to learn."""

from __future__ import annotations

from petune.tasks.prompt_classification import PromptClassification
from tests import kinds
from tests.tiny import rows  # noqa: F401

FAMILIES = ("gpt2", "llama")
METHODS = tuple(method for method in kinds.METHODS if method != "head")


def task() -> PromptClassification:
    """Two words of the tiny vocabulary for one label, one for the other."""
    words = {"bad": ["awful", "dull"], "good": "great"}
    return PromptClassification(model="causal", template="{text} it was {mask}", verbalizer=words)
