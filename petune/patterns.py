"""Regular expressions that cannot hang: the steps of a match are bounded, whatever the pattern.

Python's own matcher tries one way after another, so `(a+)+$` can keep it busy for years. Here each part of a pattern
takes the set of places where it may begin to the set of places where it can end, so no way is tried twice. That covers
what names of modules are chosen by; backreferences, conditions and lookbehinds are refused.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import Any

from petune.errors import ConfigError

LONGEST = 2000
"""Characters of a pattern. Real ones, which name a few modules and blocks, have a few hundred at most."""
_DEEPEST = 40
"""Groups within groups."""
_STEPS, _STEPS_PER_TEXT = 1_000_000, 1_000
"""Places looked at by one pattern, over all its texts: about a second. A real one needs a few hundred for a name."""
_parser: Any = importlib.import_module("re._parser")  # its public alias `sre_parse` is deprecated
Places = frozenset[int]
_NONE: Places = frozenset()


class _Reading:
    """The text that is read, and how many steps are left."""

    def __init__(self) -> None:
        self.text, self.left = "", _STEPS

    def walk(self, places: Places) -> Places:
        """Counts the places that a part is about to look at."""
        self.left -= 1 + len(places)
        if self.left < 0:
            raise _OutOfStepsError
        return places


class _OutOfStepsError(Exception):
    """The pattern is too much work."""


Part = Callable[[_Reading, Places], Places]
"""A part of a pattern: where it may begin -> where it can end."""


def fullmatch(pattern: str, text: str) -> bool:
    r"""Whether the whole text matches, as `re.fullmatch` has it.

    Raises:
        ConfigError: no regular expression, one that is too long or too much work, or one with an unknown part.

    Examples:
        >>> fullmatch(r".*\.(query|value)", "layer.0.query"), fullmatch("(a+)+b", "a" * 60)
        (True, False)
    """
    return matcher(pattern)(text)


def matcher(pattern: str) -> Callable[[str], bool]:
    """`fullmatch` of one pattern, for many texts, which share its steps.

    Raises:
        ConfigError: as `fullmatch`.
    """
    if len(pattern) > LONGEST:
        raise _refused(pattern, f"has {len(pattern)} characters", f"At most {LONGEST}.")
    try:
        whole = _sequence(_parser.parse(pattern), pattern, 0)
    except RecursionError:
        raise _refused(pattern, "has too many groups within groups", f"At most {_DEEPEST}.") from None
    except (_parser.error, OverflowError) as error:
        raise _refused(pattern, f"is no regular expression: {error}", "A pattern of Python's `re`.") from error
    reading = _Reading()

    def run(text: str) -> bool:
        reading.text, reading.left = text, reading.left + _STEPS_PER_TEXT
        try:
            return len(text) in whole(reading, frozenset((0,)))
        except _OutOfStepsError:
            raise _refused(pattern, f"takes too many steps on {text[:80]!r}", "Few repeats within repeats.") from None

    return run


def _refused(pattern: str, why: str, expected: str) -> ConfigError:
    shown = pattern if len(pattern) <= 80 else pattern[:77] + "..."
    return ConfigError(f"The pattern {shown!r} {why}.", expected=expected, fix="List the names of the modules instead.")


def _sequence(parts: Iterable[tuple[Any, Any]], pattern: str, depth: int) -> Part:
    """Parts one after another."""
    if depth > _DEEPEST:
        raise _refused(pattern, "has too many groups within groups", f"At most {_DEEPEST}.")
    if getattr(getattr(parts, "state", None), "flags", 32) & ~32:  # 32: unicode, which is the default
        raise _refused(pattern, "sets flags", "A pattern without (?i) and the like.")
    made = [_part(str(op), given, pattern, depth) for op, given in parts]

    def run(reading: _Reading, places: Places) -> Places:
        for part in made:
            if not places:
                break
            places = part(reading, places)
        return places

    return run


def _part(op: str, given: Any, pattern: str, depth: int) -> Part:
    """One part, by the parser's name of it."""
    if op in ("LITERAL", "NOT_LITERAL", "ANY", "IN"):
        return _one(lambda char: _accepts(op, given, char))
    if op == "BRANCH":
        ways = [_sequence(way, pattern, depth + 1) for way in given[1]]
        return lambda reading, places: _NONE.union(*(way(reading, places) for way in ways))
    if op == "SUBPATTERN" and not given[1] and not given[2]:
        return _sequence(given[3], pattern, depth + 1)
    if op in ("MAX_REPEAT", "MIN_REPEAT"):
        return _repeated(_sequence(given[2], pattern, depth + 1), int(given[0]), int(given[1]))
    if op in ("ASSERT", "ASSERT_NOT") and given[0] > 0:
        inner, wanted = _sequence(given[1], pattern, depth + 1), op == "ASSERT"
        return lambda reading, places: frozenset(
            place for place in reading.walk(places) if bool(inner(reading, frozenset((place,)))) is wanted
        )
    if op == "AT" and str(given) in ("AT_BEGINNING", "AT_BEGINNING_STRING"):
        return lambda reading, places: reading.walk(places) & {0}
    if op == "AT" and str(given) in ("AT_END", "AT_END_STRING"):
        return lambda reading, places: reading.walk(places) & {len(reading.text)}
    raise _refused(pattern, f"has a part of the kind {op}", "Characters, classes, groups, repeats and lookaheads.")


def _one(accepts: Callable[[str], bool]) -> Part:
    """One character."""

    def run(reading: _Reading, places: Places) -> Places:
        text = reading.text
        return frozenset(place + 1 for place in reading.walk(places) if place < len(text) and accepts(text[place]))

    return run


def _accepts(op: str, given: Any, char: str) -> bool:
    """Whether a character is the one, or of the class, that a part names."""
    if op == "IN":
        negated = str(given[0][0]) == "NEGATE"
        return any(_accepts(str(kind), value, char) for kind, value in given[negated:]) is not negated
    if op == "ANY":
        return char != "\n"
    if op == "RANGE":
        return bool(given[0] <= ord(char) <= given[1])
    if op == "CATEGORY":
        kind = str(given).removeprefix("CATEGORY_")
        tests = {"DIGIT": str.isdecimal, "SPACE": str.isspace, "WORD": lambda c: c.isalnum() or c == "_"}
        return bool(tests[kind.removeprefix("NOT_")](char)) is not kind.startswith("NOT_")
    return (ord(char) == given) is (op == "LITERAL")


def _repeated(part: Part, least: int, most: int) -> Part:
    """A part so many times."""

    def run(reading: _Reading, places: Places) -> Places:
        for _ in range(least):
            before, places = places, part(reading, reading.walk(places))
            if places == before or not places:  # further rounds give the same set
                break
        found = fresh = places
        # More rounds than the text has characters, each of which moves on, cannot be.
        for _ in range(min(most - least, len(reading.text))):
            fresh = part(reading, reading.walk(fresh)) - found
            if not fresh:
                break
            found |= fresh
        return found

    return run


__all__ = ["LONGEST", "fullmatch", "matcher"]
