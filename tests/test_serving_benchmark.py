"""The serving benchmark on a tiny backbone: the arms agree, turns are fair, targets are judged, results are kept."""

from __future__ import annotations

import importlib
import json
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks import machine
from benchmarks.serving import __main__ as serving
from benchmarks.serving import claims, generating, plot, routing, switching, tables, timing, traffic
from benchmarks.serving.settings import Settings
from tests.tiny import config, folder, rows, tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's
SIDE_BY_SIDE = ("routing", "distinct", "switching", "loading", "merging")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Everything as small as it gets."""
    encoder = str(folder("bert", tmp_path_factory.mktemp("encoder")))
    return Settings(
        encoder,
        repeats=1,
        at_least=0.0,
        rows=3,
        lengths=(1, 4),
        most=4,
        marks=(2, 4),
        stored=6,
        resident=3,
        batches=2,
        merged_width=32,
        merged_blocks=1,
    )


@pytest.fixture(scope="module")
def measured(settings: Settings) -> dict[str, Any]:
    """The figures that compare with peft, measured once."""
    return {name: importlib.import_module(f"benchmarks.serving.{name}").run(settings) for name in SIDE_BY_SIDE}


@pytest.mark.parametrize("name", SIDE_BY_SIDE)
def test_a_figure_is_measured(measured: dict[str, Any], name: str) -> None:
    """It runs from end to end, its arms agreed before the clock started, and it is plain JSON."""
    figure = measured[name]
    assert json.loads(json.dumps(figure, allow_nan=False))["cells"]
    for claim in figure["claims"]:
        assert claim["measured"] > 0
        better = claim["measured"] >= claim["target"] if claim["sense"] == "at least" else None
        assert claim["met"] == (claim["measured"] <= claim["target"] if better is None else better)


def test_the_arms_of_a_routed_batch(measured: dict[str, Any], settings: Settings) -> None:
    """Every cell has all five, petune's rows are its solo runs, and the adapters do change something."""
    cells = measured["routing"]["cells"]
    assert [(cell["targets"], cell["tokens"]) for cell in cells] == [
        (targets, length) for targets in ("query,value", "all linear") for length in settings.lengths
    ]
    for cell in cells:
        assert set(cell["over_bare"]) == {"bare", "petune", "bank", "peft", "petune, heads"}
        assert cell["differences"]["petune and solo"] <= 1e-5
        assert max(cell["differences"]["petune and bank"], cell["differences"]["petune and peft"]) <= 1e-4
        assert cell["differences"]["petune and bare"] > 1e-2


def test_loading_is_read_off_at_the_marks(measured: dict[str, Any], settings: Settings) -> None:
    """One curve per arm from the second load on, and the marks are points of it."""
    for cell in measured["loading"]["cells"]:
        assert len(cell["curve"]) == settings.most - 1
        assert cell["at"]["4"]["median"] == cell["curve"][-1]
    assert {cell["arm"] for cell in measured["loading"]["cells"]} == {"petune", "peft", "peft, low memory"}


def test_arms_share_memory_and_nothing_else(settings: Settings) -> None:
    """The weights of all arms are the same tensors; a hook on one arm's modules is on no other's."""
    arms = routing.Arms(settings, "query,value")
    ours, bare = arms.petune.backbone.model, arms.bare
    assert all(a is b for a, b in zip(ours.parameters(), bare.parameters(), strict=True))
    assert not {id(module) for module in ours.modules()} & {id(module) for module in bare.modules()}
    assert not any(module._forward_hooks for module in bare.modules())


def test_other_answers_stop_the_measurement(settings: Settings) -> None:
    """An arm that computes something else is an error, not a fast arm."""
    arms = routing.Arms(settings, "query,value")
    next(module for name, module in arms.peft.named_modules() if name.endswith("lora_B.a0")).weight.data += 1
    with pytest.raises(AssertionError, match="petune and peft: the answers differ by"):
        arms.cell(4)


def test_turns_rotate_and_the_first_round_is_dropped() -> None:
    """Each arm begins a round as often as any other, and each timed call stands after an untimed one."""
    order: list[str] = []
    arms = {name: (lambda name=name: order.append(name)) for name in "abc"}
    kept = timing.interleaved(arms, repeats=3, at_least=0.0)
    assert {name: len(seconds) for name, seconds in kept.items()} == {"a": 3, "b": 3, "c": 3}
    assert "".join(order[-24:]) == "aabbcc" + "bbccaa" + "ccaabb" + "aabbcc"


def test_short_calls_fill_their_turn() -> None:
    """A call of microseconds is timed many times over."""
    calls = Counter()  # type: ignore[var-annotated]
    timing.interleaved({"short": lambda: calls.update(["short"])}, repeats=1, at_least=0.01)
    assert calls["short"] > 500


def test_a_summary_is_in_milliseconds() -> None:
    """Median and range."""
    assert timing.summary([0.003, 0.001, 0.002]) == {"median": 2.0, "min": 1.0, "max": 3.0, "repeats": 3}


@pytest.mark.parametrize(
    ("claim", "met"),
    [
        (claims.at_most("x", 1.04, 1.04), True),
        (claims.at_most("x", 1.04, 1.041), False),
        (claims.at_least("x", 8, 8.0), True),
        (claims.at_least("x", 8, 7.9), False),
    ],
)
def test_a_target_is_judged(claim: dict[str, Any], met: bool) -> None:
    """On the target is met."""
    assert claim["met"] is met


def test_not_a_number_is_no_agreement() -> None:
    """Answers that are NaN differ."""
    with pytest.raises(AssertionError):
        claims.hold("x", float("nan"), 1e-5)


def test_every_routing_target_of_the_issue_is_claimed() -> None:
    """Four times over bare, each with the bank beside it, and four times peft over petune."""
    over = {"bare": 1.0, "petune": 1.1, "bank": 1.3, "peft": 5.0, "petune, heads": 1.2}
    cells = [{"targets": t, "tokens": s, "over_bare": over} for t in ("query,value", "all linear") for s in (1, 8, 32)]
    made = routing.claims(cells)
    assert len(made) == 12
    assert sum("bank" in claim["figure"] and claim["met"] for claim in made) == 4
    assert next(c for c in made if c["figure"] == "peft over petune, routed, all linear, S = 32")["met"]


def test_a_switch_goes_round(settings: Settings) -> None:
    """Every call takes the next name, and what comes after runs each time."""
    seen: list[str] = []
    call = switching.alternating(seen.append, ["a", "b"], lambda: seen.append("-"))
    for _ in range(3):
        call()
    assert seen == ["a", "-", "b", "-", "a", "-"]


def test_traffic_is_fixed_and_skewed() -> None:
    """The same requests each time; the most popular adapter gets many times the share of the median one."""
    big = Settings("", stored=100, rows=32, batches=20, repeats=2)
    batches = traffic.drawn(big)
    assert batches == traffic.drawn(big)
    asked = Counter(name for batch in batches for name in batch.names)
    assert sum(asked.values()) == 32 * 20 * (2 + traffic.WARMING)
    (_, first), (_, median) = asked.most_common()[0], asked.most_common()[50]
    assert first > 15 * median


def test_loads_are_those_of_a_least_recently_used_store() -> None:
    """Two places: what was asked for last stays."""
    batches = [traffic.Batch([], names) for names in (["a", "b"], ["a"], ["c"], ["b"], ["b", "c"])]
    assert traffic.loads(batches, resident=2, last=5) == (2 + 0 + 1 + 1 + 0) / 5
    assert traffic.loads(batches, resident=2, last=1) == 0


def test_generated_texts_are_compared() -> None:
    """Routed rows are their solo runs, all of them; peft may part in two."""
    ours = [f"text {row}" for row in range(8)]
    assert generating.compared({"petune": ours, "solo": ours, "peft": ["x", "y", *ours[2:]]}) == 6
    with pytest.raises(AssertionError, match="solo"):
        generating.compared({"petune": ours, "solo": ["x", *ours[1:]], "peft": ours})
    with pytest.raises(AssertionError, match="5 of 8"):
        generating.compared({"petune": ours, "solo": ours, "peft": ["x", "y", "z", *ours[3:]]})


def test_the_table_and_the_picture(measured: dict[str, Any]) -> None:
    """A row per claim, what is missing is named; the SVG is well-formed and its curves lie within their panels."""
    text = tables.table({"figures": measured})
    assert text.count("at least") + text.count("at most") == sum(len(f["claims"]) for f in measured.values())
    assert "| query,value | 4 |" in text
    assert text.endswith("Not measured yet: traffic, generating.")
    picture = ElementTree.fromstring(plot.drawn(measured))
    spaces = {"svg": "http://www.w3.org/2000/svg"}
    assert len(picture.findall("svg:g", spaces)) == len(plot.PANELS)
    lines = picture.findall(".//svg:polyline", spaces)
    assert len(lines) == 4 + 2 + 2 + 3
    for line in lines:
        for point in line.attrib["points"].split():
            x, y = map(float, point.split(","))
            assert plot.LEFT - 1 <= x <= plot.WIDTH and plot.TOP - 1 <= y <= plot.HEIGHT


def test_a_result_grows_figure_by_figure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    """Figures of other runs stay, one that fails keeps no other from being written, and its status is 1."""

    def fake(name: str, settings: Settings) -> dict[str, Any]:
        if name == "traffic":
            raise ImportError("no store")
        return {"cells": [], "claims": [claims.at_least(name, 2, settings.repeats)]}

    monkeypatch.setattr(serving, "measured", fake)
    monkeypatch.setattr(machine, "RESULTS", tmp_path)
    monkeypatch.setattr(serving, "drawn", lambda figures: "<svg/>")
    monkeypatch.setattr(serving.real_data, "encoder_folder", lambda: tmp_path)
    assert serving.main(["--only", "merging", "--threads", "1"]) == 0
    assert serving.main(["--only", "traffic", "generating", "--threads", "1"]) == 1
    assert list(json.loads((tmp_path / "serving.json").read_text())["figures"]) == ["merging", "generating"]
    written = (tmp_path / "serving.json").stat().st_mtime_ns
    assert serving.main(["--only", "merging", "--repeats", "1", "--threads", "1"]) == 0
    assert (tmp_path / "serving.json").stat().st_mtime_ns == written
    assert "no store" in capsys.readouterr().err
    assert torch.get_num_threads() == 1


def test_traffic_is_measured(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """From adapters on disk to requests per second, by a store that has to load and to evict."""
    texts = [{"text": row["text"]} for row in rows(8)]
    monkeypatch.setattr(traffic.real_data, "sentiment", lambda: {"test": texts})
    found = traffic.run(settings)
    (cell,) = found["cells"]
    assert (cell["on_disk"], cell["batches"], cell["rows"]) == (6, 2, 3)
    assert 0 < cell["distinct_per_batch"] <= 3
    assert all(arm["min"] > 0 for arm in cell["requests_per_second"].values())
    assert "6 adapters on disk, 3 resident" in found["claims"][0]["figure"]


def test_arms_that_answer_differently_are_noticed(settings: Settings) -> None:
    """Other labels for the same requests are an error."""
    batches = [traffic.Batch(["x"], ["a"])] * (traffic.WARMING + 1) * settings.batches
    with pytest.raises(AssertionError, match="batch 0: the arms answer differently"):
        traffic.replayed({"one": Answering("good"), "other": Answering("bad")}, batches, settings)  # type: ignore[dict-item]


class Answering:
    """Gives every text the same label."""

    def __init__(self, label: str) -> None:
        self.label = label

    def predict(self, texts: list[str], adapters: list[str]) -> list[str]:
        return [self.label] * len(texts)


@pytest.fixture(scope="module")
def writing(tmp_path_factory: pytest.TempPathFactory) -> generating.Arms:
    """The arms of generation on a tiny Llama."""
    with torch.random.fork_rng(), pytest.MonkeyPatch.context() as patched:
        torch.manual_seed(0)
        decoder = AutoModelForCausalLM.from_config(config("llama")).eval()
        questions = [{"text": row["text"]} for row in rows(3)]
        patched.setattr(generating.real_data, "questions", lambda: {"test": questions})
        made = tokenizer("llama")
        made.padding_side = "left"
        return generating.Arms(Settings("", generating=3, new_tokens=4), decoder, made)


def test_rows_of_peft_are_those_of_their_adapters(writing: generating.Arms) -> None:
    """Each row as the same adapter alone generates it, and the merged arm holds the first adapter."""
    calls = writing.calls()
    mixed, merged = calls["peft"](), calls["merged"]()
    assert len(mixed) == len(merged) == 3
    assert merged[0] == mixed[0]
    alone = writing.plain(writing.peft, max_new_tokens=4, min_new_tokens=4, adapter_names=["a2"] * 3)
    assert alone[2] == mixed[2]
