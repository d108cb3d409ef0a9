"""The controls of `threads`: peft's hot swap under the same load, as it is and with every call under one lock."""

from __future__ import annotations

import random
import threading
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from tests import tiny
from tests.versions import INPUTS

TOLERANCE = 2e-5
"""An answer that differs more from both adapters' is torn; its sums may be added in another order."""
SECONDS = 120.0


def peft_swaps(folder: Path, forwards: int) -> dict[str, dict[str, int]]:
    """Counts of torn answers, without a lock and with one."""
    places = [_adapter(folder / f"peft{seed}", seed) for seed in (1, 2)]
    return {
        "peft_hotswap": _swapped(places, forwards, nullcontext()),
        "peft_hotswap_under_one_lock": _swapped(places, forwards, threading.Lock()),
    }


def _adapter(folder: Path, seed: int) -> Path:
    """The folder of an adapter that has an effect."""
    import peft

    torch.manual_seed(seed)
    model = peft.get_peft_model(tiny.backbone("bert"), peft.LoraConfig(r=4, target_modules=["query", "value"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    return folder


@torch.no_grad()
def _said(model: Any) -> torch.Tensor:
    return model(**INPUTS).last_hidden_state  # type: ignore[no-any-return]


def _swapped(places: list[Path], forwards: int, lock: AbstractContextManager[Any]) -> dict[str, int]:
    """Four threads ask while one swaps."""
    import peft
    from peft.utils.hotswap import hotswap_adapter

    model = peft.PeftModel.from_pretrained(tiny.backbone("bert"), str(places[0])).eval()
    whole = [_said(peft.PeftModel.from_pretrained(tiny.backbone("bert"), str(place)).eval()) for place in places]
    counts, over = {"forwards": 0, "changes": 0, "torn": 0, "errors": 0}, threading.Event()
    noting = threading.Lock()

    def note(**more: int) -> None:
        with noting:
            for key, value in more.items():
                counts[key] += value
            if counts["forwards"] >= forwards:
                over.set()

    def asking() -> None:
        while not over.is_set():
            with lock:
                found = _said(model)
            note(forwards=1, torn=min(float((found - one).abs().max()) for one in whole) > TOLERANCE)

    def swapping() -> None:
        dice = random.Random(0)
        while not over.is_set():
            with lock:
                hotswap_adapter(model, str(dice.choice(places)), adapter_name="default")
            note(changes=1)
            over.wait(0.001)

    threads = [threading.Thread(target=work, daemon=True) for work in (*[asking] * 4, swapping)]
    for thread in threads:
        thread.start()
    over.wait(SECONDS)
    over.set()
    for thread in threads:
        thread.join(SECONDS)
    return counts
