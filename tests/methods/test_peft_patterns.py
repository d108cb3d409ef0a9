"""Regular expressions in a user's peft configuration: they mean what they mean to peft, and cannot hang."""

from __future__ import annotations

import time

import peft
import pytest

from petune.errors import ConfigError
from petune.methods.peft import Peft
from tests import tiny

SLOW = r"(([a-z.0-9_])+)+[A-Z]"


def sites(config: peft.PeftConfig) -> tuple[str, ...]:
    """Where petune puts the modules of a configuration."""
    injected = Peft(config=config).inject(tiny.backbone("bert"))
    found = injected.sites
    injected.remove()
    return tuple(sorted(found))


@pytest.mark.parametrize("pattern", [r".*\.(query|value)", r"encoder\.layer\.1\..*\.dense", r"(?!.*layer\.0).*\.key"])
def test_an_expression_chooses_what_it_chooses_in_peft(pattern: str) -> None:
    """The same modules as peft's own matching takes."""
    config = peft.LoHaConfig(target_modules=pattern)
    theirs = peft.LoHaModel(tiny.backbone("bert"), config, "default")
    assert sites(config) == tuple(sorted(theirs.targeted_module_names))


def test_keys_of_a_pattern_give_the_ranks_that_peft_gives() -> None:
    """The first key that matches wins, for each module."""
    ranks = {r"layer\.0\..*": 2, "query": 3}
    config = peft.LoHaConfig(target_modules=["query", "value"], r=4, rank_pattern=ranks)
    theirs = peft.LoHaModel(tiny.backbone("bert"), config, "default")
    injected = Peft(config=config).inject(tiny.backbone("bert"))
    shapes = {name.split(".hada")[0]: t.shape[1] for name, t in injected.tensors().items() if "hada_w1_a" in name}
    wanted = {n.split(".hada")[0]: p.shape[1] for n, p in theirs.model.named_parameters() if "hada_w1_a" in n}
    assert sorted(shapes.values()) == sorted(wanted.values()) == [2, 2, 3, 4]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"target_modules": SLOW}, "matches no module"),
        ({"target_modules": "("}, "no regular expression"),
        ({"target_modules": "querry"}, "matches no module.*query"),
        ({"target_modules": ["query"], "rank_pattern": {SLOW: 4}}, "matches no module"),
        ({"target_modules": ["query"], "layers_to_transform": [0], "layers_pattern": SLOW}, "layers_pattern"),
    ],
)
def test_an_expression_that_would_hang_is_answered_at_once(fields: dict[str, object], words: str) -> None:
    """In less than two seconds of work, and the model is as it was."""
    started = time.process_time()
    with pytest.raises(ConfigError, match=words):
        sites(peft.LoHaConfig(**fields))
    assert time.process_time() - started < 2
