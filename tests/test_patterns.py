"""Regular expressions whose steps are bounded: they match as Python's do, and none of them hangs."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from petune.errors import ConfigError
from petune.patterns import LONGEST, fullmatch, matcher

ATOMS = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", r"\w", r"\d", "(a|b)", "(?:ab|a)", "(?=a)", "(?!b)", "^", "$"])
TIMES = st.sampled_from(["", "*", "+", "?", "{2}", "{1,3}", "*?", "{0,2}"])
PARTS = st.lists(st.builds("{}{}".format, ATOMS, TIMES), min_size=1, max_size=4).map("".join)
GROUPED = st.builds("({}){}".format, PARTS, TIMES)


@settings(derandomize=True, deadline=None, max_examples=400, database=None)
@given(st.one_of(PARTS, GROUPED), st.text("ab1.", max_size=6))
def test_it_matches_what_python_matches(pattern: str, text: str) -> None:
    """Groups, classes, repeats, choices, lookaheads and anchors, in any order."""
    try:
        wanted = re.fullmatch(pattern, text) is not None
    except re.error:  # Python refuses to repeat an anchor
        with pytest.raises(ConfigError, match="no regular expression"):
            fullmatch(pattern, text)
    else:
        assert fullmatch(pattern, text) is wanted


@pytest.mark.parametrize(
    "pattern",
    [
        "(([a-z])+.)+[A-Z]([a-z])+$",
        "(.*)*x",
        "(a|a)*" * 20 + "b",
        "((a{1000}){1000}){1000}",
        "(?:(?:(?:a{0,999}){0,999}){0,999})b",
        ".*" * 200 + "x",
        "(a?){4294967294}b",
        "(" * 30 + "a*" + ")*" * 30 + "b",
    ],
)
def test_no_pattern_hangs(pattern: str) -> None:
    """Nested, counted and repeated repeats: an answer, or an error, in less than two seconds of work."""
    started = time.process_time()
    try:
        assert not fullmatch(pattern, "a" * 300)
    except ConfigError as error:
        assert "groups within groups" in str(error) or "too many steps" in str(error)
    assert time.process_time() - started < 2


def test_the_steps_of_a_pattern_are_counted_over_all_texts() -> None:
    """A thousand names of modules cost no more than the bound allows."""
    matches = matcher("(?:(?:(?:.{0,99}){0,99}){0,99}){0,99}x" * 9)
    with pytest.raises(ConfigError, match="too many steps"):
        for _ in range(1000):
            matches("a" * 300)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(", "no regular expression"),
        (r"(.*)\1", "GROUPREF"),
        ("(?<=a)b", "ASSERT"),
        ("(?i)a", "sets flags"),
        ("a" * (LONGEST + 1), "characters"),
        ("(" * 900 + ")" * 900, "groups within groups"),
    ],
)
def test_what_is_not_known_is_refused(pattern: str, words: str) -> None:
    """Names of modules are chosen without backreferences, lookbehinds and flags."""
    with pytest.raises(ConfigError, match=words):
        fullmatch(pattern, "a")
