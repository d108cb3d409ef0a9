"""The manifest is checked key by key, and its JSON is strict."""

from __future__ import annotations

import math
from typing import Any

import pytest

from petune.errors import AdapterFileError
from petune.storage import manifest, strict_json
from tests import tiny
from tests.storage import making


def _good() -> dict[str, Any]:
    return strict_json.loads(strict_json.dumps(making.small().manifest), source="it")


def test_what_is_built_is_valid_and_comes_back() -> None:
    """A built manifest passes its own check and survives JSON."""
    manifest.validate(_good(), source="it")
    assert _good() == making.small().manifest


def test_a_newer_schema_names_the_version_to_install() -> None:
    """An old petune cannot guess what a new one meant."""
    with pytest.raises(AdapterFileError, match=r"pip install 'petune>=9\.1\.0'"):
        manifest.validate({**_good(), "schema": 3, "petune": "9.1.0"}, source="it")


@pytest.mark.parametrize("key", sorted(manifest._KEYS))
def test_each_key_is_needed_and_typed(key: str) -> None:
    """A missing key and one of another type are errors with its name."""
    for wrong in ({k: v for k, v in _good().items() if k != key}, {**_good(), key: 1.5}):
        with pytest.raises(AdapterFileError, match=repr(key)):
            manifest.validate(wrong, source="it")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": True}, "schema"),
        ({"schema": 0}, "schema 0"),
        ({"labels": ["a", 1]}, "strings"),
        ({"labels": ["a", "a"]}, "twice"),
        ({"method": {"name": "lora"}}, "knobs"),
        ({"task": {"name": 3, "knobs": {}}}, "name"),
        ({"backbone": {"prefix": "x"}}, "backbone"),
    ],
)
def test_values_are_checked(change: dict[str, Any], words: str) -> None:
    """Types inside the parts, labels that repeat."""
    with pytest.raises(AdapterFileError, match=words):
        manifest.validate({**_good(), **change}, source="it")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1, "a": 2}', "'a' is there twice"),
        ('{"a": NaN}', "NaN"),
        ("{", "not valid JSON"),
        ("[1]", "list"),
        (b"\xff\xfe", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_json_that_is_refused(text: str | bytes, words: str) -> None:
    """Duplicate keys, NaN, broken or endless nesting, other encodings."""
    with pytest.raises(AdapterFileError, match=words):
        strict_json.loads(text, source="it")


def test_a_byte_order_mark_is_accepted() -> None:
    """Windows editors put one in front."""
    assert strict_json.loads(b'\xef\xbb\xbf{"a": 1}', source="it") == {"a": 1}


@pytest.mark.parametrize("value", [math.nan, math.inf, {1, 2}, object()])
def test_what_json_cannot_hold_is_named(value: Any) -> None:
    """The message has the path of the value."""
    with pytest.raises(AdapterFileError, match=r"metrics\.f1\[1\]"):
        strict_json.dumps({"metrics": {"f1": [1, value]}})


def test_the_small_configuration_is_json() -> None:
    """What is kept of a backbone's configuration goes into JSON for every family."""
    for family in tiny.FAMILIES:
        small = manifest.small_config(tiny.config(family))
        assert strict_json.loads(strict_json.dumps(small), source="it")["model_type"] == small["model_type"]


@pytest.mark.parametrize(
    "logits", ["x", None, [], [[1, 2], [3]], [[True]], [["1"]], [[1, [2]]], [[1e39]], [10**400], [[[[[[[[1.0]]]]]]]]]
)
def test_answers_of_a_probe_are_a_table_of_numbers(logits: Any) -> None:
    """Whoever replays the probe compares with them."""
    with pytest.raises(AdapterFileError, match=r"'probe.logits' is no table of finite numbers"):
        manifest.validate({**_good(), "probe": {"logits": logits}}, source="it")
    with pytest.raises(AdapterFileError, match=r"'probe.logits'"):
        manifest.validate({**_good(), "probe": {"nope": [1]}}, source="it")
    manifest.validate({**_good(), "probe": {"logits": [[0.5, -1], [2, 3]]}}, source="it")
