"""What every test stands on: offline, one thread, the same random numbers each time."""

from __future__ import annotations

import os

# Before transformers or datasets are imported: they read these once.
for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS"):
    os.environ[name] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

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
