"""Relations between two marked entities, of an encoder, a decoder and an encoder with relative positions."""

from __future__ import annotations

import random
from typing import Any

from petune.tasks.relation_extraction import RelationExtraction as task  # noqa: F401
from tests import kinds, tiny

FAMILIES = ("bert", "roberta", "deberta-v2", "gpt2")
METHODS = tuple(method for method in kinds.METHODS if method != "full")
OWN_PIECES = True
VERBS = {"lives_in": ("walking", "slowly"), "no_relation": ("vote", "market")}


def rows(n: int) -> list[dict[str, Any]]:
    """`n` rows of text, two spans and the relation that the words between them tell."""
    draw, made = random.Random(0), []
    for index in range(n):
        relation = tuple(VERBS)[index % 2]
        who, where = draw.choice(tiny.PEOPLE), draw.choice(tiny.PLACES)
        words = [*draw.choices(tiny.FILLER, k=draw.randint(0, 6)), who, draw.choice(VERBS[relation]), "in", where, "it"]
        text = " ".join(words)
        head, tail = ({"start": text.index(name), "end": text.index(name) + len(name)} for name in (who, where))
        made.append({"text": text, "head": head, "tail": tail, "relation": relation})
    return made


def asked(row: dict[str, Any]) -> tuple[Any, ...]:
    """A text and its spans."""
    return row["text"], row["head"], row["tail"]
