"""Names for adapters, good and hostile: each is refused clearly, or goes the whole way and comes back.

A name that is taken is fitted, added beside another adapter, saved and loaded. A failure is a refusal that is not
clear, a file outside of the folder that was named, a lost or changed tensor, or another adapter that answers otherwise.
"""

from __future__ import annotations

import tempfile
import unicodedata
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.faults.adapter_folder import tuner
from benchmarks.faults.judging import IDS
from petune import AdaptedModel, Tuner
from petune.errors import PetuneError
from petune.storage import adapter_file
from tests import tiny

GOOD = (
    "default", "sst2-v1", "a b", "a.b", "..a", "a..", ".hidden", "-x", "keys", "values", "pop", "items", "weight",
    "bias", "training", "forward", "encoder", "query", "0", "lora_A", "lora_B", "base_layer", "classifier",
    "modules_to_save",
    "None", "null", "true", "CON", "NUL", "con.txt", "self", "__class__", "__init__", "état", "стиль", "名前", "😀",
    unicodedata.normalize("NFD", "état"), "n" * 255, "%2e%2e", "$HOME", "a;b", "~", "*", "a:b",
)  # fmt: skip
"""Odd, but a name: a label is never a path, a module or an attribute."""
BAD = (
    "", " ", "\t", ".", "..", "a/b", "/tmp/outside", "../../outside", "a\\b", "C:\\outside", "a\nb", "a\0b", "a\u202eb",
    "a\u200bb", "\ufeffa", "a\x1b[31mb", "\ud800", "n" * 256, "n" * 100_000, 3, None, b"a",
)  # fmt: skip
COUNT = len(GOOD) + len(BAD)


class Outcome(NamedTuple):
    """What became of a name; `wrong` says in words what may not be."""

    name: Any
    accepted: bool
    wrong: str


def refused(name: Any) -> Outcome:
    """Tries a name that must be refused, wherever a name can be given."""
    model = AdaptedModel(tiny.backbone("bert"))
    ways = (
        lambda: Tuner(tiny.backbone("bert"), tokenizer=tiny.tokenizer("bert"), name=name),
        lambda: model.add(name, tuner()),
    )
    for way in ways:
        try:
            way()
        except PetuneError as error:
            if "cannot name an adapter" not in str(error) or not error.fix:
                return Outcome(name, False, f"not clear: {error}")
        except Exception as error:
            return Outcome(name, False, f"not clear: {type(error).__name__}: {error}")
        else:
            return Outcome(name, True, "accepted")
    return Outcome(name, False, "" if not model.names else "left behind")


def kept(name: str, place: Path) -> Outcome:
    """Adds a name beside another adapter, saves it, loads it, and compares every bit."""
    model, inputs = AdaptedModel(tiny.backbone("bert")).add("other", tuner()), {"input_ids": IDS}
    with torch.no_grad():
        before = model(**inputs, route="other").logits
        try:
            answer = model.add(name, tuner()).__call__(**inputs, route=name).logits
        except PetuneError as error:
            return Outcome(name, False, f"refused: {error}")
        folder = place / "saved"
        adapter = model._bank.find(name)
        stored = adapter_file.read(adapter_file.write(folder, _packed(adapter)))
        again = AdaptedModel(tiny.backbone("bert")).add(name, folder)
        wrong = [
            "another adapter changed" * (not torch.equal(model(**inputs, route="other").logits, before)),
            "comes back otherwise" * (not torch.equal(again(**inputs, route=name).logits, answer)),
            "another name came back" * (stored.manifest["name"] != name),
            "lost tensors" * (sum(map(len, stored.layers.values())) != sum(map(len, adapter.tensors().values()))),
            "files outside" * ([path.name for path in place.iterdir()] != ["saved"]),
        ]
    return Outcome(name, True, ", ".join(filter(None, wrong)))


def _packed(adapter: Any) -> Any:
    from petune.storage.packing import pack

    return pack(adapter, None)


def run(count: int, seed: int) -> dict[str, Any]:
    """Tries so many of the names; they are the same for every seed."""
    outcomes = []
    for name in (*BAD, *GOOD)[:count]:
        if name in BAD:
            outcomes.append(refused(name))
            continue
        with tempfile.TemporaryDirectory() as place:
            outcomes.append(kept(name, Path(place)))
    wrong = [outcome for outcome in outcomes if outcome.wrong]
    return {
        "names": len(outcomes),
        "accepted": sum(outcome.accepted for outcome in outcomes),
        "refused_clearly": sum(not outcome.accepted and not outcome.wrong for outcome in outcomes),
        "wrote_outside": sum("outside" in outcome.wrong for outcome in outcomes),
        "lost_tensors": sum("lost" in outcome.wrong for outcome in outcomes),
        "failed": [f"{outcome.name!r:.60}: {outcome.wrong}" for outcome in wrong],
        "failures": len(wrong),
    }
