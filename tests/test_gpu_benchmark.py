"""The benchmark of GPUs on a CPU, with a backbone of almost no size: its mechanics; figures are not asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import gpu
from tests.training import launches


def test_one_process_compares_precisions_and_routes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every arm has learnt the same rows, the routed batch was compared with solo runs, and the JSON says where."""
    place = tmp_path / "gpu.json"
    gpu.main(["--device", "cpu", "--tiny", "--repeats", "1", "--out", str(place)])
    made = json.loads(place.read_text())
    assert made["training"].keys() == gpu.arms(1).keys() == json.loads(capsys.readouterr().out).keys()
    assert len({arm["tokens"] for arm in made["training"].values()}) == 1
    assert made["tiny"] and made["device"] == "cpu" and made["gpus"] == [] and made["machine"]["cores"]
    assert made["routed"]["over_bare"] > 0 and made["routed"]["far"] <= gpu.ROUTED


def test_two_processes_compare_ddp_with_shards(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Both arms have the same losses, and the sharded one holds half of the frozen bytes."""
    for rank in launches.two(tmp_path_factory)["ranks"]:
        made = rank["benchmark"]
        assert made["processes"] == 2 and made["routed"] == {}
        ddp, fsdp = (made["training"][name] for name in gpu.arms(2))
        assert ddp["losses"] == fsdp["losses"]
        assert 2 * fsdp["frozen_bytes_held"] == ddp["frozen_bytes_held"]


def test_a_device_that_is_not_there_is_refused() -> None:
    """Nothing is measured on another one in silence."""
    with pytest.raises(SystemExit, match="--device cuda was asked for, and training would run on 'cpu'"):
        gpu.main(["--tiny"])
