"""Bad adapters: an `adapter_config.json`, or a `petune.json`, that is broken, lies, or would cost or do too much."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from benchmarks.faults.adapter_folder import Form, Kind, config_kind, crowded, good, put
from petune.storage.adapter_file import EXPORT

SLOW = r"(([a-z.0-9_])+)+[A-Z]"
"""Keeps Python's own matcher busy for longer than anybody waits, on the name of any site."""


def kinds() -> list[Kind]:
    """Every kind of the group."""
    return [*_texts(), *_types(), *_values(), *_expressions(), *_refused(), *_about()]


def _set(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda config: config.update(fields)


def _texts() -> list[Kind]:
    def text(change: Callable[[bytes], bytes]) -> Callable[[dict[str, Any]], object]:
        return lambda config: change(json.dumps(config).encode())

    invalid = "adapter_config.json is not valid JSON"
    return [
        config_kind("config cut off", invalid, text(lambda t: t[: len(t) // 2])),
        config_kind("config that is empty", invalid, text(lambda t: b"")),
        config_kind("config that is a list", "adapter_config.json holds a list", text(lambda t: b"[" + t + b"]")),
        config_kind("config with a key twice", "'r' is there twice", text(lambda t: t[:-1] + b',"r":8}')),
        config_kind("config with 60,000 keys and one twice", "'k0' is there twice", text(lambda t: crowded(b"0") + b"," + t[1:])),
        config_kind("config with NaN", "NaN is no JSON number", text(lambda t: t[:-1] + b',"x":NaN}')),
        config_kind("config nested 100,000 deep", invalid, text(lambda t: b'{"a":' + b"[" * 100_000)),
        config_kind("config that is no UTF-8", invalid, text(lambda t: t[:-1] + b',"\xff":1}')),
        config_kind("config in UTF-16", invalid, text(lambda t: t.decode().encode("utf-16"))),
        config_kind("config of NULs", invalid, text(lambda t: bytes(len(t)))),
        config_kind("config that is a Git LFS pointer", invalid, text(lambda t: b"version https://git-lfs")),
    ]  # fmt: skip


def _types() -> list[Kind]:
    def wrong(field: str, value: Any) -> Kind:
        return config_kind(
            f"{field} is a {type(value).__name__}", f"'{field}' is a {type(value).__name__}", _set(**{field: value})
        )

    return [
        config_kind("no peft_type", "names no peft_type", lambda c: c.pop("peft_type")),
        config_kind("peft_type is a number", "names no peft_type", _set(peft_type=3)),
        wrong("r", "4"),
        wrong("r", 4.5),
        wrong("r", True),
        wrong("lora_alpha", "16"),
        wrong("lora_dropout", "0.1"),
        wrong("use_rslora", "yes"),
        wrong("rank_pattern", []),
        wrong("alpha_pattern", "x"),
        wrong("target_modules", 3),
        wrong("modules_to_save", "classifier"),
        wrong("layers_to_transform", "0"),
        wrong("auto_mapping", []),
        wrong("bias", 1),
    ]  # fmt: skip


def _values() -> list[Kind]:
    rank, site = "says rank .* its tensors have rank 4", "bert.encoder.layer.0.attention.self.query"
    return [
        config_kind("an unknown peft_type", "no peft_type 'LROA'|a method from peft", _set(peft_type="LROA")),
        config_kind("r of 1,000,000", rank, _set(r=1_000_000)),
        config_kind("another r", rank, _set(r=8)),
        config_kind("a negative r", rank, _set(r=-4)),
        config_kind("lora_alpha of 0", "lora_alpha=0", _set(lora_alpha=0)),
        config_kind("an unknown field", "has frobnicate=1", _set(frobnicate=1)),
        config_kind("a field misspelt", "has lora_alhpa=8.*lora_alpha", _set(lora_alhpa=8)),
        config_kind("a target misspelt", "target 'querry' has no tensors", _set(target_modules=["querry"])),
        config_kind("a target more", "target 'value' has no tensors", _set(target_modules=["query", "value"])),
        config_kind("a target less", "has tensors, but is no target", _set(target_modules=[site])),
        config_kind("targets that are numbers", "target_modules is no list of names", _set(target_modules=[1])),
        config_kind("a site that is excluded", "exclude_modules=.* leaves it out", _set(exclude_modules=["query"])),
        config_kind("a block that is left out", "layers_to_transform=.* leaves it out", _set(layers_to_transform=[1])),
        config_kind("another rank in a pattern", rank, _set(rank_pattern={"query": 1_000_000})),
        config_kind("alpha of 0 in a pattern", "lora_alpha=0", _set(alpha_pattern={"query": 0})),
        config_kind("200,000 entries in a pattern", "rank_pattern has 200000 entries", _set(rank_pattern={f"no{i}": 4 for i in range(200_000)})),
        config_kind("10,000 modules_to_save", "modules_to_save holds 1000\\d names", _set(modules_to_save=["x"] * 10_000)),
        config_kind("modules_to_save without tensors", "modules_to_save names 'pooler'", _set(modules_to_save=["pooler"])),
        config_kind("modules_to_save of numbers", "modules_to_save holds other", _set(modules_to_save=[1])),
        config_kind("no task, no modules_to_save", "names no task", _set(task_type=None, modules_to_save=None)),
        config_kind("a task of another release", "for the task QUESTION_ANS", _set(task_type="QUESTION_ANS")),
        config_kind("DoRA without its magnitudes", "must be alone|alone|magnitude|lacks|peft", _set(use_dora=True)),
    ]  # fmt: skip


def _expressions() -> list[Kind]:
    names = "Module names, no regular expressions"
    return [
        config_kind("target_modules that would hang", "does not match it|too many steps", _set(target_modules=SLOW)),
        config_kind("target_modules that match nothing", "does not match it", _set(target_modules=".*[.]key")),
        config_kind("target_modules that are no expression", "target_modules: .*is no regular", _set(target_modules="(")),
        config_kind("target_modules of a megabyte", "target_modules: .*characters", _set(target_modules="a?" * 500_000)),
        config_kind("target_modules nested 1,000 deep", "target_modules: .*groups", _set(target_modules="(" * 900 + ")" * 900)),
        config_kind("target_modules with a backreference", "target_modules: .*GROUPREF", _set(target_modules=r"(.*)\1")),
        config_kind("rank_pattern that would hang", f"rank_pattern has the key .*{names}", _set(rank_pattern={SLOW: 4})),
        config_kind("alpha_pattern that would hang", f"alpha_pattern has the key .*{names}", _set(alpha_pattern={SLOW: 4})),
        config_kind("exclude_modules that match all", "exclude_modules=.* leaves it out", _set(exclude_modules="(.*)*")),
        config_kind("exclude_modules that are no expression", "exclude_modules: .*is no", _set(exclude_modules="[")),
    ]  # fmt: skip


def _refused() -> list[Kind]:
    def field(name: str, value: Any) -> Kind:
        return config_kind(f"{name} that changes the backbone", f"has {name}", _set(**{name: value}))

    starts = ("pissa", "pissa_niter_4", "olora", "loftq")
    return [
        field("layer_replication", [[0, 2], [0, 1]]),
        field("trainable_token_indices", [1, 2]),
        field("target_parameters", ["embeddings.weight"]),
        field("megatron_config", {"x": 1}),
        field("alora_invocation_tokens", [1]),
        field("bias", "all"),
        *[config_kind(f"init_lora_weights={word}", "has init_lora_weights", _set(init_lora_weights=word)) for word in starts],
        config_kind("virtual tokens", "PROMPT_TUNING, which lives in peft's own model", _set(peft_type="PROMPT_TUNING")),
    ]  # fmt: skip


def _about() -> list[Kind]:
    """`petune.json`: nothing is sealed around it, so there is nothing to make right."""

    def about(name: str, words: str, edit: Callable[[dict[str, Any]], object]) -> Kind:
        def make(folder: Any) -> None:
            said = json.loads(good()[EXPORT])
            data = edit(said)
            put(folder, {**good(), EXPORT: data if isinstance(data, bytes) else json.dumps(said).encode()})

        return Kind(name, (Form("damaged", make, words),), "no digest covers petune.json")

    outside = {"../../outside": "0" * 64}
    return [
        about("petune.json cut off", "petune.json is not valid JSON", lambda said: json.dumps(said).encode()[:300]),
        about("petune.json with 60,000 keys and one twice", "'k0' is there twice", lambda said: crowded(b"0") + b"}"),
        about("petune.json with other labels", "petune.json .*differs .*in 'labels'", lambda s: s.update(labels=["a"])),
        about("petune.json that lists a file outside", "is outside of the folder", lambda s: s["exports"].update(outside)),
        about("petune.json whose exports are a list", "petune.json .*in 'exports'", lambda s: s.update(exports=[])),
        about("petune.json with a wrong digest", "differs from it in its content", lambda s: s["exports"].update({"adapter_config.json": "0"})),
    ]  # fmt: skip
