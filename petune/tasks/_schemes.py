"""Tagging schemes: how tags mark the spans that they belong to.

BIO     B-X begins a span of X, I-X continues it, O is outside (IOB1, where I-X may also begin one, included)
BIOES   also E-X for the last word and S-X for a span of one word (BILOU's L and U are the same)
none    each tag stands for itself, such as parts of speech
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from petune.errors import DataError

Scheme = Literal["auto", "BIO", "BIOES", "none"]
PATTERNS = {"BIO": re.compile(r"O|[BI]-.+"), "BIOES": re.compile(r"O|[BIESLU]-.+"), "none": re.compile(r".+")}


def detect_scheme(tags: Iterable[str]) -> Scheme:
    """The narrowest scheme that all tags follow.

    Examples:
        >>> detect_scheme(["O", "B-PER"]), detect_scheme(["O", "S-PER"]), detect_scheme(["NOUN", "O"])
        ('BIO', 'BIOES', 'none')
    """
    distinct = set(tags)
    if distinct <= {"O"}:
        return "none"
    if all(PATTERNS["BIO"].fullmatch(tag) for tag in distinct):
        return "BIO"
    return "BIOES" if all(PATTERNS["BIOES"].fullmatch(tag) for tag in distinct) else "none"


def check_scheme(tags: Iterable[str], scheme: Scheme, place: str) -> None:
    """Refuses a tag that the scheme does not know.

    Raises:
        DataError: with the place of the row.
    """
    for tag in tags:
        if scheme != "auto" and not PATTERNS[scheme].fullmatch(tag):
            raise DataError(
                f"{place}: the tag {tag!r} does not follow scheme={scheme!r}.",
                expected=f"Tags are O or begin with {', '.join(f'{letter}-' for letter in scheme if letter != 'O')}.",
                fix="Correct the tag, or pass scheme='auto'.",
            )
