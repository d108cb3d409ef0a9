"""An adapter folder that peft wrote: its configuration field by field, its tensors, and what the two make together."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from petune.doctor import recipe, tensors
from petune.doctor.chart import Chart
from petune.doctor.expressions import LONGEST, danger
from petune.lookup import near
from petune.storage import adapter_file, peft_fields, peft_reading

FILE, CONFIG = adapter_file.ADAPTER, adapter_file.PEFT_CONFIG
_WITH_PEFT = "Load this adapter with peft itself."
_EXPRESSIONS = ("target_modules", "exclude_modules", "feedforward_modules", "layers_pattern", "modules_to_save")
_PATTERNS = ("rank_pattern", "alpha_pattern")
_NAME = re.compile(r"\^?[\w.-]+")
_MOST_ODD = 100
"""Texts of one field that are looked at as expressions."""
_FACTORS = re.compile(r"\.lora_(A|B|E|embedding_A|embedding_B|magnitude_vector)\b|\.ranknum\b")


def examine(chart: Chart, named: Mapping[str, Tensor] | None) -> None:
    """Examines the folder.

    Args:
        named: the tensors of the adapter file; None where it cannot be read, which is noted already.
    """
    said = chart.json_of(CONFIG)
    if said is not None:
        _facts(chart, said)
        _fields(chart, said)
        _expressions(chart, said)
    if named is None:
        return
    tensors.describe(chart, named)
    tensors.check_finite(chart, FILE, named)
    if said is None:
        return
    _ranks(chart, said, named)
    _base_weights(chart, said, named)
    _untrained(chart, named)
    if said.get("peft_type") == "PREFIX_TUNING":
        _prefix(chart, said, named)
    elif not chart.sick:
        _last_word(chart, said, named)


def _fields(chart: Chart, said: Mapping[str, Any]) -> None:
    """Every field that changes the backbone, and every one that nobody knows."""
    kind = said.get("peft_type")
    for field, why in peft_fields.REFUSED.items():
        if said.get(field):
            chart.error("changes-base", CONFIG, f"{why[0].upper()}{why[1:]}.", field, _WITH_PEFT)
    known = peft_fields.READ.get(kind, set()) if isinstance(kind, str) else set()
    for field, value in said.items() if known else ():
        if field not in {*known, *peft_fields.REFUSED, *peft_fields.LONG_TAIL}:
            cause = f"{field}={value!r} is no field of {kind} as of peft 0.21"
            if value:
                chart.error("unknown-field", CONFIG, f"{cause}: it may change the result.", field, near(field, known))
            else:
                chart.add("note", "unknown-field", CONFIG, f"{cause}; it is off.", field)
    if not any(one.kind in ("changes-base", "unknown-field") and one.severity == "error" for one in chart.findings):
        path = str(chart.folder / CONFIG)
        base = said.get("bias") not in ("none", None) or isinstance(said.get("init_lora_weights"), str)
        chart.attempt("changes-base" if base else "unsupported", CONFIG, lambda: peft_fields.kind_of(said, path), said)


def _expressions(chart: Chart, said: Mapping[str, Any]) -> None:
    """Regular expressions that can hang who runs them: petune takes the sites from the tensors, peft runs them."""
    for field in (*_EXPRESSIONS, *_PATTERNS):
        value = said.get(field)
        texts = [value] if isinstance(value, str) else list(value) if isinstance(value, list | dict) else []
        for text in _odd(texts):
            # In a list peft takes names, but for patterns.
            expression = isinstance(value, str) or field in _PATTERNS or field == "layers_pattern"
            why = danger(text) if expression else None
            if why:
                cause = f"The regular expression {text[:80]!r} may run for ever in peft: {why}."
                chart.add("warning", "expression", CONFIG, cause, field, "Write the names of the modules as a list.")


def _odd(texts: list[Any]) -> list[str]:
    """The first texts that are no mere names of modules; a file may list more than anybody waits for."""
    strings = (text for text in texts if isinstance(text, str))
    odd = (text for text in strings if len(text) > LONGEST or not _NAME.fullmatch(text.replace("\\.", ".")))
    return list(itertools.islice(odd, _MOST_ODD))


def _base_weights(chart: Chart, said: Mapping[str, Any], named: Mapping[str, Tensor]) -> None:
    """Tensors under plain names of the backbone: peft would write them over its weights."""
    heads = [module for module in said.get("modules_to_save") or () if isinstance(module, str)]
    heads += ["classifier", "score"] if said.get("task_type") in peft_reading.TASKS else []
    heads = heads[: peft_reading.MOST_MODULES]  # the loader refuses more
    lora = said.get("peft_type") in ("LORA", "ADALORA")
    wrong = [
        name
        for name in named
        if ".base_layer." in name
        or (lora and not _FACTORS.search(name) and not any(f".{module}." in f".{name}" for module in heads))
    ]
    chart.errors(
        "base-weights",
        FILE,
        wrong,
        "It is neither a part of the adapter nor of a head (modules_to_save): peft would write it over the backbone.",
        "Save the adapter again in peft, or remove the tensor.",
    )


def _ranks(chart: Chart, said: Mapping[str, Any], named: Mapping[str, Tensor]) -> None:
    """Facts that only the tensors know."""
    downs = {name: t for name, t in named.items() if re.search(r"\.lora_A\b", name) and t.ndim == 2}
    ranks = sorted({int(t.shape[0]) for t in downs.values()})
    sites = {re.split(r"\.lora_A\b", name)[0] for name in downs}
    if sites:
        chart.facts |= {"rank": ranks[0] if len(ranks) == 1 else ranks, "sites": len(sites)}
        chart.facts["targets"] = sorted({site.rsplit(".", 1)[-1] for site in sites})
    missing = sites - {name.rpartition(".lora_B")[0] for name in named}
    chart.errors("missing-tensor", FILE, {f"{site}.lora_B.weight" for site in missing}, "It has no partner to lora_A.")
    if said.get("use_dora"):
        missing = sites - {name.rpartition(".lora_magnitude_vector")[0] for name in named}
        missing = {f"{site}.lora_magnitude_vector" for site in missing}
        chart.errors("missing-tensor", FILE, missing, "It is missing, though use_dora is on.")


def _untrained(chart: Chart, named: Mapping[str, Tensor]) -> None:
    ups = [tensor for name, tensor in named.items() if re.search(r"\.lora_(E|B)\b", name)]
    if ups and not any(bool(tensor.any()) for tensor in ups):
        tensors.note_untrained(chart, FILE)


def _prefix(chart: Chart, said: Mapping[str, Any], named: Mapping[str, Tensor]) -> None:
    """The matrix against the configuration; whether its positions can be moved depends on the backbone."""
    numbers = [said.get(field) for field in ("num_virtual_tokens", "num_layers", "token_dim")]
    matrix = named.get("prompt_embeddings")
    if matrix is None:
        chart.error("missing-tensor", FILE, "A prefix is this one matrix.", "prompt_embeddings", _WITH_PEFT)
    elif all(type(number) is int for number in numbers):
        length, count, width = (int(number or 0) for number in numbers)
        if tuple(matrix.shape) != (length, count * 2 * width):
            cause = f"It is {tuple(matrix.shape)}, by {CONFIG} it should be {(length, count * 2 * width)}."
            chart.error("shapes", FILE, cause, "prompt_embeddings", "Save the adapter again in peft.")


def _last_word(chart: Chart, said: Mapping[str, Any], named: Mapping[str, Tensor]) -> None:
    """The loader's own checks. The backbone is not asked: what an adapter names is not looked up."""
    alone = SimpleNamespace()
    stored = chart.attempt(
        "refused", FILE, lambda: adapter_file.read(chart.folder, config=alone, prefix=""), {*named, *said}
    )
    if stored is not None:
        recipe.check(chart, CONFIG, stored.manifest)
        chart.facts |= {"task": stored.manifest["task"]["name"], "labels": stored.manifest["labels"]}


def _facts(chart: Chart, said: Mapping[str, Any]) -> None:
    targets = said.get("target_modules")
    chart.facts |= {
        "method": said.get("peft_type"),
        "rank": said.get("r"),
        "alpha": said.get("lora_alpha"),
        "length": said.get("num_virtual_tokens"),
        "targets": sorted(map(str, targets)) if isinstance(targets, list) else targets,
        "task": said.get("task_type"),
        "backbone": {"path_or_id": said.get("base_model_name_or_path"), "revision": said.get("revision")},
        "versions": {"peft": said.get("peft_version")},
    }
