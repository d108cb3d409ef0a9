"""Bad adapters: whole safetensors files whose tensors are not those of an adapter, or not of this one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.faults.adapter_folder import BIAS, HEAD, SITE, A, B, Kind, tensor_kind
from petune.storage.layout import site_tensor

Tensors = dict[str, Tensor]
Edit = Callable[[dict[str, Any]], object]
_FACTOR = "neither a LoRA factor of a linear map nor part of the head"
_NOTHING = "belongs to nothing"


def kinds() -> list[Kind]:
    """Every kind of the group."""
    return [*_values(), *_shapes(), *_missing(), *_foreign(), *_listed(), *_claimed()]


def _values() -> list[Kind]:
    def filled(name: str, value: float) -> Callable[[Tensors], object]:
        return lambda tensors: tensors[name].view(-1)[:1].fill_(value)

    def cast(name: str, dtype: torch.dtype) -> Callable[[Tensors], object]:
        return lambda tensors: tensors.update({name: tensors[name].to(dtype)})

    finite, whole = "values that are NaN or infinite", "query.lora_A' is torch|do not fit"
    return [
        tensor_kind("NaN in a factor", finite, filled(A, math.nan), peft=finite),
        tensor_kind("infinity in a factor", finite, filled(B, math.inf), peft=finite),
        tensor_kind("NaN in the head", finite, filled(HEAD, math.nan), peft=finite),
        tensor_kind("all of it NaN", finite, lambda t: [x.fill_(math.nan) for x in t.values()], peft=finite),
        tensor_kind("a value of 1e38", "values as large as", filled(A, 1e38), peft="values as large as"),
        tensor_kind("a factor of int8", whole, cast(A, torch.int8), peft=whole),
        tensor_kind("a factor of booleans", whole, cast(A, torch.bool), peft=whole),
        tensor_kind("a head of int64", "classifier.weight' holds", cast(HEAD, torch.int64), peft="classifier.weight' holds"),
    ]  # fmt: skip


def _shapes() -> list[Kind]:
    def put(name: str, *shape: int) -> Callable[[Tensors], object]:
        return lambda tensors: tensors.update({name: torch.ones(shape)})

    def smaller(tensors: Tensors) -> None:
        tensors.update({A: tensors[A][:2].clone(), B: tensors[B][:, :2].clone()})

    def turned(tensors: Tensors) -> None:
        tensors.update({A: tensors[A].T.contiguous(), B: tensors[B].T.contiguous()})

    def both(tensors: Tensors) -> None:
        tensors.update({A: tensors[B], B: tensors[A]})

    rank, fit, here = "by the rank in the manifest", "factors of .*query' do not fit", "has shape .*This backbone needs"
    said = "says rank 4 for .*its tensors have rank"
    return [
        tensor_kind("factors of another rank", rank, smaller, peft=said),
        tensor_kind("one factor of another rank", rank, put(A, 3, 32), peft=fit),
        tensor_kind("factors turned", rank, turned, peft=f"{fit}|{said}"),
        tensor_kind("factors in each other's place", rank, both, peft=f"{fit}|{said}"),
        tensor_kind("a factor with one axis", rank, put(A, 128), peft=fit),
        tensor_kind("a factor with three axes", rank, put(A, 4, 4, 8), peft=fit),
        tensor_kind("a factor that is one number", rank, put(A), peft=fit),
        tensor_kind("a factor of 1 by N", rank, put(A, 1, 128), peft=fit),
        tensor_kind("another input width", here, put(A, 4, 48), peft=here),
        tensor_kind("another output width", here, put(B, 48, 4), peft=here),
        tensor_kind("a head of other classes", here, put(HEAD, 5, 32), peft=here),
        tensor_kind("a head of other width", here, put(HEAD, 3, 16), peft=here),
        tensor_kind("a bias of other classes", here, put(BIAS, 7), peft=here),
    ]


def _missing() -> list[Kind]:
    def without(part: str) -> Callable[[Tensors], object]:
        return lambda tensors: [tensors.pop(name) for name in list(tensors) if part in name]

    lacks = "lacks the tensor"
    return [
        tensor_kind("one factor is missing", lacks, lambda t: t.pop(B), peft="lacks the tensor lora_B"),
        tensor_kind("a block is missing", lacks, without("layer.1."), peft="layer.1.*has no tensors|block 1"),
        tensor_kind("the head is missing", lacks, without("classifier"), peft="'classifier'|no classification head"),
        tensor_kind(
            "the bias of the head is missing", lacks, lambda t: t.pop(BIAS), peft="classifier.bias' is missing"
        ),
        tensor_kind("all but the head is missing", lacks, without("lora_"), peft="no LoRA factors"),
        tensor_kind("no tensors at all", lacks, lambda t: t.clear(), peft="no LoRA factors|'classifier'"),
    ]


def _foreign() -> list[Kind]:
    def more(name: str, *shape: int, peft: str = _FACTOR, label: str) -> Kind:
        def edit(tensors: Tensors) -> None:
            tensors[name] = torch.ones(shape or (32,))

        return tensor_kind(label, _NOTHING, edit, peft=peft)

    def renamed(old: str, new: str) -> Callable[[Tensors], object]:
        def edit(tensors: Tensors) -> None:
            for name in [name for name in tensors if old in name]:
                tensors[name.replace(old, new)] = tensors.pop(name)

        return edit

    words, lacks = "base_model.model.bert.embeddings.word_embeddings.weight", "lacks the tensor|belongs to nothing"
    no_site = f"no target|no tensors|{_FACTOR}|outside of the backbone|fits nowhere|is missing"
    return [
        more("what.is.this", label="a key of nobody"),
        more("", label="an empty key"),
        more(words, 200, 32, label="a weight of the backbone"),
        more(f"base_model.model.bert.{SITE}.base_layer.weight", 32, 32, label="the weight beneath a site"),
        more(f"base_model.model.bert.{SITE}.bias", label="a bias of the backbone"),
        more(f"base_model.model.bert.{SITE}.lora_magnitude_vector", label="a magnitude without DoRA"),
        more(f"base_model.model.bert.{SITE}.lora_E", 4, 1, label="singular values without AdaLoRA", peft="rank"),
        more("base_model.model.bert.embeddings.word_embeddings.lora_embedding_A", 4, 200, label="an embedding's factor"),
        more("base_model.model.bert.pooler.dense.weight", 32, 32, label="a part of the backbone as if it were a head"),
        more("../../../outside", label="a key that is a path"),
        more("base_model.model.a\0b", label="a key with NUL"),
        more("x" * 100_000, label="a key of 100,000 characters"),
        more(A.replace("query", "qu\u0435ry"), 4, 32, label="a key with a letter that looks the same", peft="lacks|no target"),
        tensor_kind("a key misspelt", lacks, renamed("query", "querry"), peft=no_site),
        tensor_kind("keys with an adapter's name", lacks, renamed("lora_A.", "lora_A.default."), peft=no_site),
        tensor_kind("keys without peft's prefix", lacks, renamed("base_model.model.", ""), peft=no_site),
        tensor_kind("keys of another architecture", lacks, renamed("bert.", "roberta."), peft=no_site),
        tensor_kind("keys of a block that is not there", lacks, renamed("layer.1.", "layer.99."), peft=no_site),
        tensor_kind("keys of an older format", lacks, renamed("lora_A.weight", "lora_down.weight"), peft=no_site),
    ]  # fmt: skip


def _listed() -> list[Kind]:
    """What the manifest lists as well, so that only the backbone can tell."""

    def site(path: str) -> Callable[[dict[str, Any]], object]:
        return lambda manifest: manifest["layout"]["sites"].update({path: ["lora_A", "lora_B"]})

    def pair(path: str) -> Callable[[Tensors], object]:
        dotted = f"base_model.model.bert.{path}"
        return lambda t: t.update(
            {f"{dotted}.lora_A.weight": torch.ones(4, 32), f"{dotted}.lora_B.weight": torch.ones(32, 4)}
        )

    def drop(tensors: Tensors) -> None:
        tensors.pop(A), tensors.pop(B)

    def head(name: str, *shape: int) -> tuple[Callable[[Tensors], object], Callable[[dict[str, Any]], object]]:
        return (
            lambda t: t.update({f"base_model.model.{name}": torch.ones(shape)}),
            lambda m: m["layout"]["head"].append(name),
        )

    weight, listed = head("bert.embeddings.word_embeddings.weight", 200, 32)
    extra, extra_listed = head("classifier.extra", 3)
    value = SITE.replace("query", "value")
    return [
        tensor_kind("a listed site is missing", "layer tensor .* is missing", drop, layout=lambda m: m["layout"]["sites"].pop(SITE)),
        tensor_kind("a listed site more", "layer tensor .* fits nowhere", pair(value), layout=site(value)),
        tensor_kind("a listed site that is no module", "layer tensor .* fits nowhere", pair("no.such"), layout=site("no.such")),
        tensor_kind("a listed weight of the backbone", "head tensor .* fits nowhere", weight, layout=listed),
        tensor_kind("a listed part of the head more", "head tensor .* fits nowhere", extra, layout=extra_listed),
    ]  # fmt: skip


N = 20_000_000
"""A size that nobody has the memory for, where it is believed."""


def _claimed() -> list[Kind]:
    """Tensors that claim a size and hold little or nothing."""

    def manifest(method: str, knob: str, shapes: dict[str, list[int]], *, file: bool = False) -> Edit:
        def edit(manifest: dict[str, Any]) -> None:
            layout = manifest["layout"]
            manifest["method"] = {"name": method, "knobs": {knob: max(*shapes.values())[0]}}
            layout["sites"] = {site: list(shapes) for site in layout["sites"]}
            named = {_named(site, short): shape for site in layout["sites"] for short, shape in shapes.items()}
            if not file:
                empty = {name: shape for name, shape in named.items() if 0 in shape}
                layout["empty"] = {name: {"dtype": "float32", "shape": shape} for name, shape in empty.items()}

        return edit

    def instead(shapes: dict[str, list[int]]) -> Callable[[Tensors], object]:
        def edit(tensors: Tensors) -> None:
            for name in [name for name in tensors if name.endswith("lora_A.weight")]:
                site = name.removeprefix("base_model.model.bert.").removesuffix(".lora_A.weight")
                tensors.pop(_named(site, "lora_A")), tensors.pop(_named(site, "lora_B"))
                tensors.update({_named(site, short): torch.zeros(shape) for short, shape in shapes.items()})

        return edit

    lora = {"lora_A": [N, 0], "lora_B": [0, N]}
    prefix = {"keys": [N, 0, 16], "values": [N, 0, 16]}
    bottleneck = {"down.weight": [N, 0], "down.bias": [N], "up.weight": [0, N], "up.bias": [0]}
    narrow = {"lora_A": [5000, 1], "lora_B": [1, 5000]}
    empty, none = "is no empty tensor of an adapter", "has no elements"

    def kind(name: str, words: str, method: str, knob: str, shapes: dict[str, list[int]], *, file: bool) -> Kind:
        peft = {True: "says rank 4", False: "no LoRA factors"}[file] if method == "lora" else ""
        layout = manifest(method, knob, shapes, file=file)
        return tensor_kind(name, words, instead(shapes if file else {}), layout=layout, peft=peft)

    return [
        kind("empty factors of rank 20,000,000", empty, "lora", "rank", lora, file=False),
        kind("an empty prefix of 20,000,000 positions", empty, "prefix", "length", prefix, file=False),
        kind("an empty bottleneck of width 20,000,000", empty, "bottleneck", "width", bottleneck, file=False),
        kind("factors in the file that are empty", none, "lora", "rank", lora, file=True),
        kind("a prefix in the file that is empty", none, "prefix", "length", prefix, file=True),
        kind("factors that are long and narrow", "rank=5000 at .*At most 4096", "lora", "rank", narrow, file=True),
    ]


def _named(site: str, short: str) -> str:
    return site_tensor("lora", "bert", site, short)
