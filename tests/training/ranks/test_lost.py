"""A process that is lost ends the run of the other one, which then goes on from its checkpoint."""

from __future__ import annotations

import time

import pytest
import torch

from benchmarks.faults import two_processes
from petune.config import TrainConfig
from petune.training.ranks import lost


def test_a_killed_and_a_stopped_process_end_the_other_one(monkeypatch):
    """SIGKILL and SIGSTOP: in time, with rank and checkpoint named; resumed they have the bits of an unbroken run."""
    monkeypatch.setattr(two_processes, "STOPPED_EVERY", 2)
    counts = two_processes.run(2, seed=1)
    assert not counts["wrong"], counts
    assert (counts["killed"], counts["stopped"]) == (1, 1)
    assert counts["ended_in_time"] == counts["named_the_rank"] == counts["named_the_checkpoint"] == 2
    assert counts["resumed_bit_identical"] == 2


class Store:
    """The rendezvous store of a run whose other process is gone."""

    def __init__(self, *, beats: bool) -> None:
        self.kept: dict[str, str] = {}
        self.beats, self.clone, self.timeout = beats, lambda: self, None

    def set_timeout(self, timeout):
        self.timeout = timeout

    def add(self, key, amount):
        if key.endswith("beat/1") and self.beats:
            amount = 1
        self.kept[key] = str(int(self.kept.get(key, "0")) + amount)
        return int(self.kept[key])

    def set(self, key, value):
        self.kept[key] = value

    def check(self, keys):
        return all(key in self.kept for key in keys)

    def get(self, key):
        return self.kept[key].encode()


@pytest.fixture
def pulse(monkeypatch):
    """Makes the pulse of rank 0 of two in a store, with beats that take no time."""
    monkeypatch.setattr(lost, "BEAT", 0.02)

    def made(store: Store) -> lost.Pulse:
        monkeypatch.setattr(torch.distributed.distributed_c10d, "_get_default_store", lambda: store)
        return lost.Pulse(0, 2, lambda: (3, 9))

    return made


def test_silence_ends_a_process_whose_backend_does_not_come_back(pulse):
    """Where the main thread hangs for good, the thread that leaves the marks ends the process and says why."""
    said: list[str] = []
    watch = pulse(Store(beats=False))
    watch.start(0.2, said.append)
    deadline = time.monotonic() + 10
    while not said and time.monotonic() < deadline:
        time.sleep(0.01)
    watch.stop()
    assert said and said[0].startswith("petune: rank 0 has heard nothing of another process")


def test_a_process_that_beats_ends_nobody(pulse):
    """As long as the marks of the other one go on, so does this one."""
    said: list[str] = []
    watch = pulse(Store(beats=True))
    watch.start(0.2, said.append)
    time.sleep(0.5)
    watch.stop()
    assert not said


def test_the_words_for_who_was_lost(pulse):
    """A rank that is silent is named; one that broke off is quoted; one that still runs is told with its step."""
    assert pulse(Store(beats=False)).lost() == "Rank 1 of 2 was lost"
    store = Store(beats=True)
    watch = pulse(store)
    store.set(watch._key("step", 1), "7")
    assert watch.lost() == "Rank 0 of 2 lost the others, which still run (rank 1 at step 7),"
    store.set(watch._key("why", 1), "ValueError: no")
    assert watch.lost() == "Rank 1 of 2 broke off (ValueError: no)"


def test_a_store_that_does_not_answer_keeps_nobody_waiting(pulse):
    """A stopped process may hold the store: it counts as lost, after a bounded time, and is asked no more."""
    store = Store(beats=False)
    store.add = lambda key, amount: time.sleep(5)
    watch, began = pulse(store), time.monotonic()
    assert watch.lost() == "Rank 0, which holds the rendezvous, was lost"
    watch.tell("nobody hears it")
    assert time.monotonic() - began < 3


def test_the_error_names_the_checkpoint_to_go_on_from(tmp_path):
    """It names step and newest checkpoint, or says that none was kept."""
    config = TrainConfig(output_dir=tmp_path, save_every=1)
    assert "before the first step (why). " in str(lost.lost_error("Rank 1 was lost", "why", (0, 0), config))
    assert "No checkpoint was kept" in str(lost.lost_error("Rank 1 was lost", "why", (4, 9), config))
    (tmp_path / "checkpoint-00000003").mkdir()
    error = lost.lost_error("Rank 1 was lost", "why", (4, 9), config)
    assert error.what == "Rank 1 was lost at step 4 of 9 (why)."
    assert error.fix == f"Start it again with resume='auto': it goes on from checkpoint-00000003 in {tmp_path}."


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1"), True),
        (RuntimeError("Timed out waiting 4000ms for recv operation to complete"), True),
        (torch.distributed.DistNetworkError("no route"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("Connection closed"), False),
    ],
)
def test_a_broken_line_is_told_from_a_broken_program(error, is_it):
    """Only what the backend says of the connection counts as a lost process."""
    assert lost.is_of_the_line(error) is is_it


def test_the_place_in_torchs_source_is_left_out():
    """The first line is told, without where in its source torch noticed."""
    error = RuntimeError("[../gloo/pair.cc:534] Connection closed by peer.\nframe #0: somewhere")
    assert lost.first_line(error) == "Connection closed by peer"
