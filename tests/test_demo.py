"""The demo's pieces, with made-up figures and a tiny backbone: the table, the checks, one arm, what comes after."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from benchmarks import compare, demo, machine, readme
from benchmarks.compare import Job
from petune import AdaptedModel
from tests.tiny import folder, rows


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny BERT with its tokenizer."""
    return str(folder("bert", tmp_path_factory.mktemp("backbone")))


def parts(classes: int) -> dict[str, list[dict[str, Any]]]:
    """Synthetic rows in two parts."""
    sizes = {"train": 24, "test": 12}
    return {part: rows(n, classes, seed) for seed, (part, n) in enumerate(sizes.items())}


@pytest.fixture(scope="module")
def arms(backbone: str, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Every arm of the demo, trained for one epoch in this process."""
    place = tmp_path_factory.mktemp("arms")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(compare, "THREADS", 1)
        return [
            compare.measured(Job(name, name, backbone, place / name, parts(2), rate, progress="off"))
            for name, rate in demo.RATES.items()
        ]


def arm(name: str, accuracy: float) -> dict[str, Any]:
    """Made-up figures of one arm."""
    figures = {"trainable_parameters": 1234, "trainable_share": 0.05, "seconds": 2.4, "tokens_per_second": 2345.6}
    return {**figures, "name": name, "accuracy": accuracy, "peak_memory_megabytes": 987.6, "bytes": 123_456}


def told(thing: Any) -> str:
    """What a console of the demo's width prints."""
    console = Console(width=100, file=io.StringIO())
    console.print(thing)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_table_fits_into_a_hundred_columns() -> None:
    """Each arm is one line with all its figures, also where the output is no terminal."""
    text = told(demo.arms_table([{**arm("bottleneck", 0.8125), "trainable_parameters": 22_713_602}]))
    assert max(map(len, text.splitlines())) <= 100
    line = next(line for line in text.splitlines() if "bottleneck" in line)
    assert line.replace("│", " ").split() == [
        "bottleneck", "22,713,602", "5.00%", "0.812", "2", "2,346", "988", "MB", "0.12", "MB",
    ]  # fmt: skip


def test_an_arm_that_does_not_beat_the_probe_fails() -> None:
    """As good as the probe is not better; the probe itself is not checked."""
    checks = demo.beats_the_probe([arm("head", 0.7), arm("lora", 0.8), arm("prefix", 0.7)])
    assert [(check.what.split()[0], check.passed) for check in checks] == [("lora", True), ("prefix", False)]


@pytest.mark.parametrize(
    ("reload", "merge", "equal", "passed"),
    [
        (0.0, 1e-7, True, [True, True, True]),
        (1e-9, 1e-7, True, [False, True, True]),
        (0.0, 2e-4, True, [True, False, True]),
        (0.0, 1e-4, False, [True, True, False]),
    ],
)
def test_what_must_hold(reload: float, merge: float, equal: bool, passed: list[bool]) -> None:
    """Reload 0, merge at most 1e-4, A, B, A equal: the worst figure decides each."""
    seen = {"reload": {"full": 0.0, "lora": reload}, "merge": {"lora": merge, "adalora": 0.0}, "a_b_a_equal": equal}
    assert [check.passed for check in demo.held(seen)] == passed


def test_an_arm_tells_what_it_took(arms: list[dict[str, Any]]) -> None:
    """Every method is measured the same way; full trains everything and rests on disk as a whole model."""
    by_name = {arm["name"]: arm for arm in arms}
    assert list(by_name) == ["head", "full", "lora", "adalora", "bottleneck", "prefix"]
    assert by_name["full"]["trainable_share"] == 1.0
    assert all(0 < arm["trainable_share"] < 1 for name, arm in by_name.items() if name != "full")
    for arm in arms:
        assert 0 <= arm["accuracy"] <= 1
        assert min(arm["seconds"], arm["tokens_per_second"], arm["bytes"]) > 0
        assert arm["peak_memory_megabytes"] > arm["libraries_megabytes"] * 0.9 > 0
        assert len(arm["sample"]) == 12
    assert by_name["adalora"]["method"] == "adalora"


def test_what_comes_after_training(arms: list[dict[str, Any]], backbone: str, tmp_path: Path) -> None:
    """Saved adapters answer the same when loaded, merge, and swap bit for bit beside another label set."""
    second = compare.measured(
        Job("questions", "bottleneck", backbone, tmp_path / "questions", parts(3), 1e-3, progress="off")
    )
    console = Console(width=100, file=io.StringIO())
    seen = demo.after(console, backbone, arms, second, parts(2), parts(3))
    assert set(seen["reload"]) == {arm["name"] for arm in arms}
    assert set(seen["reload"].values()) == {0.0}
    assert seen["a_b_a_equal"]
    assert all(check.passed for check in demo.held(seen))
    assert len(seen["answers"]) == 4
    assert len(seen["lines"].splitlines()) == 3
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Merged 'lora' into 12 weights" in text
    assert "mood (12, 2), questions (12, 3), mood again" in text


def test_the_swap_notices_a_difference(arms: list[dict[str, Any]], backbone: str) -> None:
    """Logits that change between A and A again are told, not hidden."""
    mood, other = (next(arm for arm in arms if arm["name"] == name) for name in ("lora", "bottleneck"))
    model = AdaptedModel(backbone).add("mood", mood["folder"]).add("questions", other["folder"])
    assert demo.a_b_a(model, ["a great film"])["equal"]
    drift = itertools.count()

    class Drifting:
        tokenizer = model.tokenizer

        def __call__(self, **given: Any) -> Any:
            output = model(**given)
            return SimpleNamespace(logits=output.logits + 1e-3 * next(drift))

    assert not demo.a_b_a(cast(AdaptedModel, Drifting()), ["a great film"])["equal"]


@pytest.mark.parametrize(("accuracy", "status"), [(0.9, 0), (0.5, 1)])
def test_the_exit_status(accuracy: float, status: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """0 when every check passes, 1 when one fails; the result is written in both cases, without folders or texts."""

    def fake(job: Job) -> dict[str, Any]:
        extra = {"folder": str(job.folder), "sample": [], "libraries_megabytes": 500.0}
        return {**arm(job.name, 0.6 if job.name == "head" else accuracy), **extra}

    monkeypatch.setattr(demo, "apart", fake)
    monkeypatch.setattr(demo, "THREADS", 1)
    monkeypatch.setattr(demo.real_data, "encoder_folder", lambda: tmp_path)
    monkeypatch.setattr(demo, "reviews", lambda: parts(2))
    monkeypatch.setattr(demo, "questions", lambda: parts(3))
    seen = {"reload": {"lora": 0.0}, "merge": {"lora": 0.0}, "a_b_a_equal": True, "answers": ["x"], "lines": "1\n2\n3"}
    monkeypatch.setattr(demo, "after", lambda *_: seen)
    monkeypatch.setattr(machine, "RESULTS", tmp_path)
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    assert demo.main() == status
    written = json.loads((tmp_path / "demo.json").read_text())
    assert [arm["name"] for arm in written["arms"]] == list(demo.RATES)
    assert not {"folder", "sample"} & written["arms"][0].keys()
    assert all(check["passed"] for check in written["checks"]) == (status == 0)
    assert readme.demo_table(written).count("\n| ") == len(demo.RATES) + 1


def test_the_fixed_rows_are_as_many_as_promised() -> None:
    """At least 2,000 rows to train on and 1,000 to test on; no row of one part is in another."""
    moods, kinds = demo.reviews(), demo.questions()
    assert demo.sizes(moods) == "2,000 train, 1,057 test"
    assert demo.sizes(kinds) == "2,000 train, 538 test"
    for parts in (moods, kinds):
        texts = [row["text"] for rows in parts.values() for row in rows]
        assert len(set(texts)) == len(texts)


def test_an_arm_apart_is_the_same_arm(arms: list[dict[str, Any]], backbone: str, tmp_path: Path) -> None:
    """A process of its own trains the same adapter: as accurate, as large."""
    job = Job("lora", "lora", backbone, tmp_path / "lora", parts(2), demo.RATES["lora"], progress="off")
    there, here = compare.apart(job), next(arm for arm in arms if arm["name"] == "lora")
    assert there["accuracy"] == here["accuracy"]
    assert there["trainable_parameters"] == here["trainable_parameters"]
