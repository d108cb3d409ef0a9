"""A file may list more than anybody would write: what is read, or refused, comes in time."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch

from petune.errors import AdapterFileError
from petune.storage import peft_lora, strict_json
from petune.storage.peft_patterns import Patterns

RANK = {"peft_type": "LORA", "r": 1, "lora_alpha": 8}
FACTORS = {"A": torch.ones(1, 2), "B": torch.ones(2, 1)}


@pytest.fixture(autouse=True)
def _in_time() -> Iterator[None]:
    """Two seconds of processor time are more than enough."""
    began = time.process_time()
    yield
    assert time.process_time() - began < 2


def test_one_key_of_many_twice_is_found_at_once() -> None:
    """60,000 keys and the last of them twice: the error names it."""
    fields = ",".join(f'"k{i}":0' for i in (*range(60_000), 59_999))
    with pytest.raises(AdapterFileError, match="'k59999' is there twice"):
        strict_json.loads(f"{{{fields}}}", source="it")


def _sites(count: int) -> dict[str, torch.Tensor]:
    return {f"base_model.model.s{i}.q.lora_{part}.weight": FACTORS[part] for i in range(count) for part in "AB"}


def test_a_pattern_with_an_entry_for_each_of_many_sites_is_read() -> None:
    """A site looks up its own endings; it walks through no list."""
    said = {**RANK, "rank_pattern": {f"s{i}.q": 1 for i in range(6_000)}, "r": 3}
    said["target_modules"] = [f"s{i}.q" for i in range(6_000)]
    knobs, layers = peft_lora.layers(said, _sites(6_000), "", None, "it", [])
    assert knobs["rank"] == 1 and len(layers) == 6_000


def test_a_pattern_with_too_many_entries_is_refused() -> None:
    """No adapter has so many sites."""
    with pytest.raises(AdapterFileError, match=r"rank_pattern has 400000 entries.*100000"):
        Patterns({"rank_pattern": {f"x{i}": 4 for i in range(400_000)}}, "rank_pattern")


def test_the_first_key_that_fits_decides() -> None:
    """As in peft, whatever the order in which endings are looked up; `^` stands for the whole path."""
    said = {"rank_pattern": {"^q": 9, "layer.0.q": 2, "q": 3, r"layer\.1\.q": 4}}
    pattern = Patterns(said, "rank_pattern")
    assert [pattern.value(path, 8) for path in ("q", "a.layer.0.q", "layer.1.q", "layer.1.k")] == [9, 2, 3, 8]


def test_an_expression_is_refused_where_its_turn_comes() -> None:
    """Sites that a name before it fits never get so far."""
    pattern = Patterns({"rank_pattern": {"q": 3, ".*k": 4, "v": 5}}, "rank_pattern")
    assert pattern.value("layer.0.q", 8) == 3
    with pytest.raises(AdapterFileError, match=r"rank_pattern has the key '\.\*k'.*no regular expressions"):
        pattern.value("layer.0.v", 8)
