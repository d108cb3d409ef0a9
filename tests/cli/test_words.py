"""Words of a command line as values: whatever a knob may be, a word says it, and the help says which."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from petune.cli.knob_list import arguments, knobs_of
from petune.cli.sections import OWN, SECTIONS, own_knobs, section_knobs
from petune.cli.words import called, value_of
from petune.config import TrainConfig
from petune.lookup import names


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        ("8", int | Literal["auto"], 8),
        ("auto", int | Literal["auto"], "auto"),
        ("1e-3", float | None, 1e-3),
        ("None", float | None, None),
        ("true", bool | Literal["auto"], True),
        ("no", bool | Literal["auto"], False),
        ("all", Literal["all"] | tuple[int, ...], "all"),
        ("0,2", Literal["all"] | tuple[int, ...], (0, 2)),
        ("a, b", tuple[str, ...], ("a", "b")),
        ('["a, b"]', tuple[str, ...], ("a, b",)),
        ("", tuple[str, ...], ()),
        ("a=1,b=2", dict[str, float], {"a": 1.0, "b": 2.0}),
        ('{"a": 1}', dict[str, float], {"a": 1}),
        ("balanced", Literal["balanced"] | dict[str, float] | None, "balanced"),
        ("runs/a", str | Path | None, "runs/a"),
        ('{"peft_type": "IA3"}', Any, {"peft_type": "IA3"}),
    ],
)
def test_a_word_is_the_value_that_is_meant(text: str, hint: Any, value: object) -> None:
    """The words of a `Literal` come first, then numbers, lists and mappings; text is last."""
    found = value_of(text, hint)
    assert ((found == value or str(found) == value) and type(found) is type(value)) or str(found) == value


@pytest.mark.parametrize(
    ("text", "hint"), [("many", int), ("0.5", int | None), ("a,b", tuple[int, ...]), ("a", dict[str, float])]
)
def test_a_word_of_another_kind_is_refused(text: str, hint: Any) -> None:
    """The message says what a value is called in the help."""
    with pytest.raises(ValueError, match="is not") as caught:
        value_of(text, hint)
    assert called(hint) in str(caught.value)


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=8), max_size=5))
def test_every_list_of_texts_can_be_said(texts: list[str]) -> None:
    """JSON says what commas cannot."""
    assert value_of(json.dumps(texts), tuple[str, ...]) == tuple(texts)


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers())
def test_numbers_survive(real: float, whole: int) -> None:
    """What Python prints is read back as it was."""
    assert value_of(repr(real), float | None) == real and value_of(str(whole), int | Literal["auto"]) == whole


@pytest.mark.parametrize("section", SECTIONS)
def test_every_knob_of_every_name_is_told(section: str) -> None:
    """Each method and task has a line of help for each of its knobs, none of which is called `name`."""
    for name in names(SECTIONS[section]):
        for knob in section_knobs(section, name):
            assert knob.help, f"{name}: the docstring says nothing of {knob.path[-1]!r}"
            assert knob.path[-1] != "name"


def test_the_keys_of_a_file_do_not_meet() -> None:
    """No knob of fitting has the name of one of the file's own keys or sections, and each is told of."""
    own = {knob.path[0] for knob in OWN} | set(SECTIONS)
    assert not own & {knob.path[0] for knob in knobs_of(TrainConfig)}
    assert all(knob.help for knob in own_knobs())


def test_a_docstring_of_several_lines_is_one() -> None:
    """Continued lines join; what comes after the arguments is left out."""
    text = "Does.\n\nArgs:\n    a: one\n        two.\n    b, c: three.\n\nReturns:\n    d: nothing."
    assert arguments(text) == {"a": "one two.", "b": "three.", "c": "three."}
