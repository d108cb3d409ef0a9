"""The same script under `accelerate launch` on two machines (two commands over the loopback), and under torchrun."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.faults import two_hosts
from petune import Tuner
from tests import tiny


@pytest.fixture(scope="module")
def launches(tmp_path_factory) -> dict[str, Any]:
    """What both processes of both launches came to, and where they wrote."""
    places = {name: tmp_path_factory.mktemp(name) for name in ("apart", "together")}
    made = {"apart": two_hosts.apart(places["apart"], "127.0.0.1"), "together": two_hosts.together(places["together"])}
    return {"places": places, **made}


@pytest.mark.parametrize("launch", ["apart", "together"])
def test_every_rank_holds_the_adapter_and_works_with_it(launches, launch):
    """Weights, figures and answers are the same on both ranks, with no word about which rank it is."""
    first, second = launches[launch]
    assert "error" not in first and "error" not in second, first
    assert first["digests"] == second["digests"] and first["steps"] == second["steps"] == 8
    assert (first["figures"], first["answers"]) == (second["figures"], second["answers"])


def test_the_launcher_makes_no_difference(launches):
    """Two machines with accelerate, or one with torchrun: the same bits."""
    assert launches["apart"][0]["digests"] == launches["together"][0]["digests"]


def test_only_rank_0_writes(launches):
    """Checkpoints and history come from the main process; the folder that it saved loads like any other."""
    for launch in ("apart", "together"):
        assert [rank["saved"] for rank in launches[launch]] == [True, False]
        place = launches["places"][launch]
        assert not any(path.is_file() for path in (place / "run-1").rglob("*"))
        loaded = Tuner.load(place / "adapter", tiny.backbone("bert"))
        texts = [row["text"] for row in tiny.rows(5, seed=4)]
        assert loaded.predict(texts) == launches[launch][1]["answers"]
