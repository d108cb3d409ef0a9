"""Saves that are killed, fail, lose their power or are read meanwhile: one whole generation, old or new.

The long forms of these are `python -m benchmarks.faults`.
"""

from __future__ import annotations

import os

from benchmarks.faults import full_disk, power_cut, racing_readers, saving_kills
from benchmarks.faults.calls import watching
from benchmarks.faults.power_cut import Disk
from benchmarks.faults.saves import BY_NAME, afresh, wrong


def test_a_killed_save_leaves_the_old_one_or_the_new_one():
    """At random moments and before each system call, and with each call failing, for adapters and checkpoints."""
    found = saving_kills.run(20, seed=0)
    assert not found["failures"], found
    for name in BY_NAME:
        counts = found[name]
        assert counts["random"]["kills"] == 20 and counts["every_call"]["kills"] == counts["every_call"]["calls"] > 20
        assert counts["every_call"]["old"] and counts["every_call"]["new"], "both sides of the commit were hit"
        assert counts["every_error"]["refused_old_intact"] and counts["every_error"]["saved"]


def test_a_power_cut_leaves_the_old_one_or_the_new_one():
    """Whatever of the unflushed changes has reached the disk; after the save has returned it is the new one."""
    found = power_cut.run(2, seed=0)
    assert not found["failures"], found
    assert all(counts["states"] > 100 for name, counts in found.items() if name != "failures")


def test_the_model_of_a_power_cut_sees_what_is_not_flushed(tmp_path):
    """A control: a file that is written plainly, or renamed without a flush, is exposed."""
    root = tmp_path / "disk"
    root.mkdir()
    disk = Disk(root)
    with watching(root) as calls:
        handle = os.open(root / "a.tmp", os.O_WRONLY | os.O_CREAT)
        os.write(handle, b"bytes")
        os.close(handle)
        os.replace(root / "a.tmp", root / "a")
    for call in calls.made:
        disk.feed(call)
    assert disk.exposed() == ["a"]
    disk.write(tmp_path / "after", disk.pending, "half")
    assert (tmp_path / "after" / "a").read_bytes() == b"by"
    disk.write(tmp_path / "after", [], "half")
    assert not (tmp_path / "after" / "a").exists()


def test_what_goes_past_the_functions_in_hand_is_seen(tmp_path):
    """A control: a file that Python opens for writing by itself is found by the audit hook."""
    with watching(tmp_path) as calls:
        (tmp_path / "a").write_bytes(b"x")
    assert len(calls.unseen) == 1 and not calls.made


def test_a_torn_pair_is_no_generation(tmp_path):
    """A control: one generation's files with the other's are recognised as wrong, for adapters and checkpoints."""
    for name, subject in BY_NAME.items():
        afresh(tmp_path / name, subject)
        afresh(tmp_path / f"other-{name}", subject, 1)
    (tmp_path / "other-adapter" / "petune.json").replace(tmp_path / "adapter" / "petune.json")
    assert wrong(lambda: BY_NAME["adapter"].state(tmp_path / "adapter")) is None, "the adapter file alone is believed"
    (tmp_path / "other-checkpoint" / "checkpoint-00000003" / "state.json").replace(
        tmp_path / "checkpoint" / "checkpoint-00000002" / "state.json"
    )
    assert "its bytes are not those that were written" in str(
        wrong(lambda: BY_NAME["checkpoint"].state(tmp_path / "checkpoint"))
    )


def test_readers_get_one_whole_generation():
    """Whoever loads while a writer saves on and on gets the old one or the new one, and no error or warning."""
    found = racing_readers.run(25, seed=0)
    assert not found["failures"], found
    assert all(found[name]["changed_meanwhile"] == 25 for name in BY_NAME)


def test_a_disk_that_refuses_changes_nothing():
    """Full at several sizes, read-only, without permission, or no folder: a clear error, and the old one as it was."""
    found = full_disk.run(4, seed=0)
    assert not found["failures"], found
    assert all(found[name]["refused_old_intact"] == 7 for name in BY_NAME) and found["run"]["refused"] >= 2
