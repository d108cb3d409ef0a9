"""Bad adapters: a manifest that is no manifest, or says what cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from benchmarks.faults.adapter_folder import SITE, Kind, manifest_kind

Edit = Callable[[dict[str, Any]], object]


def kinds() -> list[Kind]:
    """Every kind of the group."""
    return [*_forms(), *_names_and_labels(), *_tasks_and_methods(), *_knobs(), *_backbones(), *_layouts()]


def _put(*path: Any) -> Edit:
    """Sets the value at a path of keys; the last of them is the value."""
    *keys, last, value = path

    def edit(manifest: dict[str, Any]) -> None:
        for key in keys:
            manifest = manifest[key]
        manifest[last] = value

    return edit


def _forms() -> list[Kind]:
    invalid = "The manifest in .* is not valid JSON"

    def newer(manifest: dict[str, Any]) -> None:
        manifest |= {"schema": 99, "petune": "9.9.0"}

    def text(change: Callable[[str], str]) -> Edit:
        return lambda manifest: change(json.dumps(manifest)).encode()

    return [
        manifest_kind("a newer schema", r"schema 99.*petune>=9\.9\.0", newer),
        manifest_kind("no schema", "no key 'schema'", lambda m: m.pop("schema")),
        manifest_kind("a schema of 0", "has schema 0", _put("schema", 0)),
        manifest_kind("a schema that is a string", "'schema' is a str", _put("schema", "2")),
        manifest_kind("a schema that is true", "'schema' is a bool", _put("schema", True)),
        manifest_kind("an unknown key", "unknown key 'lables'", _put("lables", [])),
        manifest_kind("manifest cut off", invalid, text(lambda t: t[: len(t) // 2])),
        manifest_kind("manifest that is empty", invalid, text(lambda t: "")),
        manifest_kind("manifest that is a list", "holds a list", text(lambda t: f"[{t}]")),
        manifest_kind("manifest with a key twice", "'name' is there twice", text(lambda t: t[:-1] + ',"name":"b"}')),
        manifest_kind("manifest nested 100,000 deep", invalid, text(lambda t: '{"a":' + "[" * 100_000)),
        manifest_kind("versions that are a list", "'versions' is a list", _put("versions", [])),
        manifest_kind("untrained that is a word", "'untrained' is a str", _put("untrained", "no")),
        manifest_kind("trained_as that is a number", "'trained_as' is a int", _put("trained_as", 3)),
    ]


def _names_and_labels() -> list[Kind]:
    def named(label: str, name: str) -> Kind:
        return manifest_kind(label, "'name': .*cannot name an adapter", _put("name", name))

    return [
        named("a name that climbs", "../../outside"),
        named("a name that is an absolute path", "/tmp/outside"),
        named("a name with NUL", "a\0b"),
        named("a name with a line end", "a\nb"),
        named("a name that turns the writing round", "a\u202eb"),
        named("a name of 10,000 characters", "n" * 10_000),
        named("a blank name", "  "),
        manifest_kind("a name that is a number", "'name' is a int", _put("name", 3)),
        manifest_kind("no labels", "no key 'labels'", lambda m: m.pop("labels")),
        manifest_kind("a label twice", "a label occurs twice", lambda m: m["labels"].__setitem__(0, m["labels"][1])),
        manifest_kind("labels that are numbers", "'labels' holds other things", _put("labels", [0, 1, 2])),
        manifest_kind("labels that are a string", "'labels' is a str", _put("labels", "abc")),
        manifest_kind("a label too few", "has shape .*This backbone needs", lambda m: m["labels"].pop()),
        manifest_kind("a label too many", "has shape .*This backbone needs", lambda m: m["labels"].append("more")),
        manifest_kind("labels that are gone", "label", _put("labels", [])),
    ]


def _tasks_and_methods() -> list[Kind]:
    other = {"name": "bottleneck", "knobs": {"width": 4}}
    prefix = {"name": "prefix", "knobs": {"length": 4}}
    return [
        manifest_kind("an unknown task", "no task 'sequence-clasification'", _put("task", "name", "sequence-clasification")),
        manifest_kind("a task without a name", "no key 'task.name'", lambda m: m["task"].pop("name")),
        manifest_kind("a task of another kind", "task|knob|tensor", _put("task", "name", "causal-lm")),
        manifest_kind("a task with an unknown knob", "no knob 'max_lenght'", _put("task", "knobs", "max_lenght", 8)),
        manifest_kind("a knob of the task that is a word", "max_length='long'", _put("task", "knobs", "max_length", "long")),
        manifest_kind("an unknown method", "no method 'lroa'", _put("method", "name", "lroa")),
        manifest_kind("a method of another kind", "holds lora_A|lacks the tensor", _put("method", other)),
        manifest_kind("a method that acts elsewhere", "holds lora_A|lacks the tensor", _put("method", prefix)),
        manifest_kind("the method full", "'full', which would replace", _put("method", {"name": "full", "knobs": {}})),
        manifest_kind("a method that is a path to code", "no method|not imported|lacks", _put("method", "name", "os:system")),
        manifest_kind("a method with a key of its own", "unknown key 'method.code'", _put("method", "code", "x")),
        manifest_kind("knobs that are a list", "'method.knobs' is a list", _put("method", "knobs", [])),
    ]  # fmt: skip


def _knobs() -> list[Kind]:
    def knob(label: str, words: str, name: str, value: Any) -> Kind:
        return manifest_kind(label, words, _put("method", "knobs", name, value))

    fewer = "is missing|fits nowhere"
    return [
        manifest_kind("no rank", "rank=None", lambda m: m["method"]["knobs"].pop("rank")),
        knob("a rank of 1,000,000", "rank=1000000", "rank", 1_000_000),
        knob("another rank", "by the rank in the manifest", "rank", 8),
        knob("a negative rank", "rank=-4", "rank", -4),
        knob("a rank that is a string", "rank='4'", "rank", "4"),
        knob("an alpha of 0", "alpha=0", "alpha", 0),
        knob("an alpha that is a string", "alpha='16'", "alpha", "16"),
        knob("an alpha of 1e400", "not valid JSON|alpha", "alpha", float("inf")),
        knob("rslora that is a word", "rslora='yes'", "rslora", "yes"),
        knob("a dropout of 2", "dropout=2", "dropout", 2.0),
        knob("an unknown knob", "no knob 'rnak'", "rnak", 4),
        knob("a rank for a site that is not there", "'ranks' names the site 'no.such'", "ranks", {"no.such": 1_000_000}),
        knob("ranks that are a list", "ranks=", "ranks", []),
        knob("a target that is not there", "querry", "targets", ["querry"]),
        knob("other targets", fewer, "targets", ["value"]),
        knob("one more target", fewer, "targets", ["query", "value"]),
        knob("fewer blocks", fewer, "top", 1),
        knob("more blocks than there are", "top=40", "top", 40),
        knob("a module that is not there", "querry", "modules", ["querry"]),
    ]  # fmt: skip


def _backbones() -> list[Kind]:
    other = "trained on other weights: fingerprint"
    return [
        manifest_kind("other weights of equal shapes", other, _put("backbone", "fingerprint", "0" * 64)),
        manifest_kind("another architecture", "trained on a 'roberta' backbone", _put("backbone", "model_type", "roberta")),
        manifest_kind("another place in the shell", "lacks the tensor", _put("backbone", "prefix", "roberta")),
        manifest_kind("a fingerprint that is a number", "'backbone.fingerprint' is a int", _put("backbone", "fingerprint", 7)),
        manifest_kind("a backbone without its dtype", "no key 'backbone.dtype'", lambda m: m["backbone"].pop("dtype")),
        manifest_kind("an unknown key of the backbone", "unknown key 'backbone.url'", _put("backbone", "url", "x")),
        manifest_kind("no backbone", "no key 'backbone'", lambda m: m.pop("backbone")),
    ]  # fmt: skip


def _layouts() -> list[Kind]:
    malformed, empty = "'layout' is malformed", "is no empty tensor"
    huge = {"x": {"dtype": "float32", "shape": [2**40, 0]}}
    return [
        manifest_kind("no digests", "has no digest for", _put("digests", {})),
        manifest_kind("a layout without the head", malformed, lambda m: m["layout"].pop("head")),
        manifest_kind("a layout of no sites", "belongs to nothing", _put("layout", "sites", {})),
        manifest_kind("a site without tensors", "lacks the tensor", _put("layout", "sites", "no.such", ["lora_A"])),
        manifest_kind("a site of numbers", malformed, _put("layout", "sites", SITE, [1, 2])),
        manifest_kind("a head that lies outside", malformed, _put("layout", "head_at", "../")),
        manifest_kind("an empty tensor of 2**40 rows", empty, _put("layout", "empty", huge)),
        manifest_kind("an empty tensor that is none", empty, _put("layout", "empty", {"x": {"dtype": "float32", "shape": [4]}})),
    ]  # fmt: skip
