"""`batch_size="auto"`: what fits is found once, changes no bit of what is learnt, and is kept for a resumed run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from petune import Job, TrainConfig, fit_many
from petune.errors import ConfigError, TrainingError
from petune.storage import checkpoint as storage
from petune.training import batch_size
from petune.training.batch_size import by_measuring, by_trying, divisors
from petune.training.free_memory import free_bytes
from petune.training.live_bytes import LiveBytes
from petune.training.loop import train
from petune.training.report import TrainReport
from tests import tiny
from tests.training.crews import quick, still, tuner
from tests.training.fakes import FakeLearner, FakeTask, examples, settings

ROWS = examples(40)


def run(learner: FakeLearner, resume: Any = None, **knobs: Any) -> TrainReport:
    """A short run on the same 40 rows."""
    return train(learner, FakeTask(), None, ROWS, None, settings(**knobs), resume=resume)


def bits(learner: FakeLearner) -> list[torch.Tensor]:
    """Every weight and buffer."""
    return list(learner.state_dict().values())


def equal(one: FakeLearner, other: FakeLearner) -> bool:
    """To the bit."""
    return all(torch.equal(a, b) for a, b in zip(bits(one), bits(other), strict=True))


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets how much memory is free."""

    def set_to(size: int) -> None:
        monkeypatch.setattr(batch_size, "free_bytes", lambda: size)

    return set_to


def needed(rows: int, free: Any) -> int:
    """What a fit with so many rows a forward is found to need, to the byte."""
    low, high = 0, 1 << 24
    while low < high:
        middle = (low + high) // 2
        free(middle)
        low, high = (low, middle) if rows_of(run(FakeLearner(), batch_size="auto")) >= rows else (middle + 1, high)
    return low


def rows_of(report: TrainReport) -> int:
    """The rows of a forward, as the report says."""
    (said,) = [notice for notice in report.notices if "rows per forward" in notice]
    return int(said.split("found ")[1].split(" x ")[0])


def test_what_fits_decides_the_forwards_and_not_the_steps(free: Any) -> None:
    """Much memory: all 16 rows at once; none: one by one; the number of steps and their rows stay."""
    reports = {}
    for name, size in (("much", 1 << 40), ("none", 0)):
        free(size)
        learner = FakeLearner()
        reports[name] = run(learner, batch_size="auto", group_by_length=False)
        assert learner.forwards > reports[name].steps
    assert (rows_of(reports["much"]), rows_of(reports["none"])) == (16, 1)
    assert reports["much"].steps == reports["none"].steps == 2 * 3
    losses = [[row["loss"] for row in report.history] for report in reports.values()]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_accumulation_makes_the_step_larger(free: Any) -> None:
    """With 3 accumulation steps a step has 48 rows, in one forward if they fit."""
    free(1 << 40)
    assert rows_of(run(FakeLearner(), batch_size="auto", gradient_accumulation_steps=3)) == 48


def test_no_bit_depends_on_the_search(free: Any) -> None:
    """A run with the numbers that were found, given outright, ends with the same bits, dropout and buffers included."""
    free(0)
    found, given = FakeLearner(dropout=0.2), FakeLearner(dropout=0.2)
    run(found, batch_size="auto")
    run(given, batch_size=1, gradient_accumulation_steps=16)
    assert equal(found, given)


def test_a_resumed_run_takes_over_what_was_found(free: Any, tmp_path: Path) -> None:
    """On a machine with other memory it goes on with the same forwards, without a search, to the same bits."""
    free(0)
    whole, paused, resumed = (FakeLearner(dropout=0.1) for _ in range(3))
    run(whole, batch_size="auto")

    class Stop(BaseException):
        pass

    class StopThere:
        def __getattr__(self, name: str) -> Any:
            return lambda *_: None

        def on_step(self, row: Any) -> None:
            if row["step"] == 3:
                raise Stop

    knobs: dict[str, Any] = {"output_dir": tmp_path, "save_every": 1, "batch_size": "auto"}
    with pytest.raises(Stop):
        train(paused, FakeTask(), None, ROWS, None, settings(**knobs), callbacks=[StopThere()])
    free(1 << 40)
    report = run(resumed, resume="auto", **knobs)
    assert rows_of(report) == 1
    assert equal(whole, resumed)
    kept = storage.newest(tmp_path)
    assert kept is not None
    assert kept.state["identity"]["config"]["batch_size"] == 1
    assert kept.state["identity"]["config"]["gradient_accumulation_steps"] == 16


def test_the_search_measures_steps_of_the_longest_rows(free: Any) -> None:
    """What a step holds grows with its rows, and decides: a byte less than a size needs, and it is not taken."""
    seen: list[tuple[int, int]] = []

    class Watching(FakeLearner):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            seen.append(tuple(input_ids.shape))  # type: ignore[arg-type]
            return super().forward(input_ids, attention_mask)

    free(1 << 40)
    run(Watching(), batch_size="auto")
    longest = max(len(example["input_ids"]) for example in ROWS)
    assert seen[:2] == [(1, longest), (2, longest)]
    four, eight = needed(4, free), needed(8, free)
    assert 0 < four < eight
    free(eight - 1)
    assert rows_of(run(FakeLearner(), batch_size="auto")) == 4


def test_a_joint_fit_refuses() -> None:
    """No adapter of a joint fit has a forward of its own."""
    model = still("bert")
    jobs = [Job(tuner(model, name, "lora"), tiny.rows(8), None, quick(batch_size="auto")) for name in ("a", "b")]
    with pytest.raises(ConfigError, match="joint fit"):
        fit_many(jobs)


def test_a_real_fit_says_what_it_found(free: Any) -> None:
    """A tuner with a real adapter: the notice is in the report, the weights are those of the same sizes given."""
    free(1 << 40)
    model = still("bert")
    found = tuner(model, "found", "lora").fit(tiny.rows(20), config=quick(batch_size="auto"))
    given = tuner(model, "given", "lora").fit(tiny.rows(20), config=quick(batch_size=16))
    assert any("found 16 x 1:" in notice for notice in found.report.notices)
    assert [row["loss"] for row in found.report.history] == [row["loss"] for row in given.report.history]


def test_sizes_are_tried_by_halves() -> None:
    """Each size divides the rows of a step, so none is left over."""
    assert divisors(16) == [16, 8, 4, 2, 1]
    assert divisors(1) == [1]
    for wanted in range(1, 100):
        assert all(wanted % size == 0 for size in divisors(wanted))


def test_a_device_is_tried_until_nothing_overflows() -> None:
    """Out of memory means half as many; another error is an error; not even one row is told."""
    tried: list[int] = []

    def attempt(rows: int) -> None:
        tried.append(rows)
        if rows > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")

    assert by_trying([16, 8, 4, 2, 1], attempt) == 4
    assert tried == [16, 8, 4]
    with pytest.raises(TrainingError, match="Not even one"):
        by_trying([16, 8], attempt)
    with pytest.raises(ZeroDivisionError):
        by_trying([1], lambda rows: rows // 0)  # type: ignore[arg-type, return-value]


def test_an_attempt_runs_a_whole_step_and_leaves_no_gradient() -> None:
    """What a GPU is asked to do, done here: forward and backward of so many rows, beside room for the optimizer."""
    from petune.training.trainee import Trainee

    learner = FakeLearner()
    trainee = Trainee(learner, FakeTask(), None, ROWS, None, TrainConfig(batch_size="auto"))  # type: ignore[arg-type]
    steps = batch_size._Steps(trainee, torch.device("cpu"))
    assert steps.learning_bytes == 3 * sum(p.numel() * 4 for p in learner.parameters())
    assert steps.peak_bytes(8) > steps.peak_bytes(4) > steps.peak_bytes(2)
    assert all(p.grad is None for p in learner.parameters())


def test_a_line_through_two_measurements() -> None:
    """The first size below the limit is taken, with a margin; where none is, the last."""
    assert by_measuring([16, 8, 4], lambda rows: 1000 * rows, int(8000 * batch_size.MARGIN)) == 8
    assert by_measuring([16, 8, 4], lambda rows: 1000 * rows, int(8000 * batch_size.MARGIN) - 1) == 4
    assert by_measuring([16, 8, 4], lambda rows: 1000 * rows, 0) == 4


def test_live_bytes_count_what_is_there() -> None:
    """Views are counted once, what is gone is not counted, the peak stays; a backward pass is seen."""
    weight = torch.ones(256, requires_grad=True)
    with LiveBytes() as live:
        kept = weight * 2
        view = kept.view(16, 16)
        assert live.now == 1024
        gone = kept + 1
        del gone
        assert (live.now, live.peak) == (1024, 2048)
        view.sum().backward()
    assert live.peak > 2048
    assert weight.grad is not None


@pytest.mark.parametrize("version", [1, 2])
def test_a_containers_limit_counts(tmp_path: Path, version: int) -> None:
    """The least of what the machine has and of what is left of each limit above this process; caches are free."""
    groups, mine = tmp_path / "groups", tmp_path / "mine"
    inner = groups / ("memory" if version == 1 else "") / "pod" / "job"
    inner.mkdir(parents=True)
    mine.write_text("4:memory:/pod/job\n" if version == 1 else "0::/pod/job\n")
    names = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes"), 2: ("memory.max", "memory.current")}
    limit, used = names[version]
    (inner / limit).write_text("max\n" if version == 2 else str(1 << 62))
    (inner / used).write_text("500000\n")
    assert free_bytes(groups, mine) > 1 << 20
    (inner.parent / limit).write_text("1000000\n")
    (inner.parent / used).write_text("700000\n")
    assert free_bytes(groups, mine) == 300_000
    name = "total_inactive_file" if version == 1 else "inactive_file"
    (inner.parent / "memory.stat").write_text(f"anon 5\n{name} 100000\n")
    assert free_bytes(groups, mine) == 400_000
    (inner / limit).write_text("400000\n")
    assert free_bytes(groups, mine) == 0
