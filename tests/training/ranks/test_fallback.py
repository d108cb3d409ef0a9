"""Launches that would quietly be something else are refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from petune.errors import ConfigError
from petune.training.ranks.fallback import refuse_deepspeed, refuse_fewer_processes
from petune.training.ranks.launching import crew_for

ONE: SimpleNamespace = SimpleNamespace(num_processes=1)


@pytest.fixture(autouse=True)
def _no_launch(monkeypatch):
    for name in ("WORLD_SIZE", "MASTER_ADDR", "ACCELERATE_USE_CPU", "ACCELERATE_USE_DEEPSPEED"):
        monkeypatch.delenv(name, raising=False)


def test_a_process_of_several_that_sees_itself_alone_is_refused(monkeypatch):
    """Two processes that each train for themselves would write over each other."""
    refuse_fewer_processes(ONE)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"2 processes were launched \(WORLD_SIZE=2\), and Accelerate sees one"):
        refuse_fewer_processes(ONE)
    refuse_fewer_processes(SimpleNamespace(num_processes=2))


def test_the_launcher_that_starts_one_cpu_process_is_refused(monkeypatch):
    """`accelerate launch --cpu --num_processes 2` sets an address, and starts one process without a word."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    refuse_fewer_processes(ONE)  # --cpu with one process
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(ConfigError, match="--multi_gpu --num_processes N"):
        refuse_fewer_processes(ONE)


def test_deepspeed_is_refused(monkeypatch):
    """On a CPU Accelerate would leave it out silently, elsewhere its engine would want to step."""
    refuse_deepspeed()
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ConfigError, match="DeepSpeed was asked for"):
        refuse_deepspeed()


@pytest.mark.parametrize("processes", [0, -1, 1.5, "2", True])
def test_a_number_of_processes_that_is_none_is_refused(processes):
    """It must be a whole number from 1 up."""
    with pytest.raises(ConfigError, match=r"processes=.* is out of range"):
        crew_for(processes, *[None] * 8)  # type: ignore[arg-type]


def test_a_launch_within_a_launch_is_refused(monkeypatch):
    """A script that was launched with two processes and asks for three contradicts itself; two are simply these."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"fit\(processes=3\) was called in one of 2 processes"):
        crew_for(3, *[None] * 8)  # type: ignore[arg-type]
    assert crew_for(2, *[None] * 8) is None  # type: ignore[arg-type]


def test_one_process_is_this_one():
    """Nothing is launched for one process, nor without a number."""
    assert crew_for(1, *[None] * 8) is None  # type: ignore[arg-type]
    assert crew_for(None, *[None] * 8) is None  # type: ignore[arg-type]


def test_more_processes_than_gpus_are_refused(monkeypatch):
    """Each process has a GPU of its own, where there are any."""
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    monkeypatch.setattr("torch.accelerator.device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"processes=2 was asked for, and there is 1 GPU"):
        crew_for(2, *[None] * 8)  # type: ignore[arg-type]
