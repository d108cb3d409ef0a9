"""What every test stands on: offline, one thread, the same random numbers each time."""

from __future__ import annotations

import os

# Before transformers or datasets are imported: they read these once.
for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS"):
    os.environ[name] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import gc  # noqa: E402
import random  # noqa: E402
from typing import TYPE_CHECKING  # noqa: E402

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

if TYPE_CHECKING:
    from petune import Tuner

# One thread per test process: workers do not fight for the cores, and sums come in one order.
torch.set_num_threads(1)
transformers.utils.logging.disable_progress_bar()


FROZEN_EVERY = 100
"""Tests after which the garbage collector is told to look at nothing that is alive: modules, fixtures, compiled code.

A worker holds millions of such objects in the end, and whoever calls `gc.collect`, as Accelerate and the benchmarks
do, would go through them all each time."""
_tests = 0


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """Freezes what is alive, now and then."""
    global _tests
    _tests += 1
    if _tests % FROZEN_EVERY == 0:
        gc.collect()
        gc.freeze()


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """Every test starts from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def fitted() -> Tuner:
    """A tuner that has learnt `bad` and `good`; refusals must leave it as it is."""
    from tests.tuners import CONFIG, ROWS, fresh

    return fresh().fit(ROWS, config=CONFIG)
