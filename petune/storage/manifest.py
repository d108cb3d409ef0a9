"""The manifest: what an adapter is, as JSON. It travels inside the adapter file, so the two cannot be torn apart."""

from __future__ import annotations

import functools
import platform
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib import metadata
from typing import Any

from petune.errors import AdapterFileError, ConfigError
from petune.lookup import near
from petune.storage.migrations import SCHEMA
from petune.storage.names import check_name
from petune.storage.strict_json import nulled

_KEYS: dict[str, tuple[type, ...]] = {
    "schema": (int,),
    "petune": (str,),
    "name": (str,),
    "task": (dict,),
    "labels": (list,),
    "method": (dict,),
    "trained_as": (str,),
    "seed": (int, type(None)),
    "metrics": (dict,),
    "versions": (dict,),
    "backbone": (dict,),
    "data": (dict, type(None)),
    "digests": (dict,),
    "layout": (dict,),
    "probe": (dict, type(None)),
    "untrained": (bool,),
    "training": (dict,),
    "transposed": (list,),
    "head_modules": (list, type(None)),
}
_BACKBONE: dict[str, tuple[type, ...]] = {
    "id": (str, type(None)),
    "path_or_id": (str, type(None)),
    "model_type": (str, type(None)),
    "prefix": (str,),
    "fingerprint": (str, type(None)),
    "dtype": (str, type(None)),
    "config": (dict,),
    "outputs": (str, type(None)),
    "quantized": (str, type(None)),
}
_CONFIG = [
    "model_type",
    "hidden_size",
    "dim",
    "d_model",
    "num_hidden_layers",
    "num_layers",
    "n_layers",
    "num_attention_heads",
    "n_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "rope_parameters",
    "rope_theta",
    "rope_scaling",
    "partial_rotary_factor",
    "use_sliding_window",
    "sliding_window",
    "layer_types",
    "intermediate_size",
]
_LARGEST = 3e38
"""Of answers in float32."""
_PACKAGES = ("torch", "transformers", "peft", "accelerate", "safetensors", "tokenizers", "numpy")


def build(
    *,
    name: str,
    task: Mapping[str, Any],
    labels: list[str],
    method: Mapping[str, Any],
    backbone: Mapping[str, Any],
    trained_as: str | None = None,
    seed: int | None = None,
    metrics: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    probe: Mapping[str, Any] | None = None,
    untrained: bool = False,
    training: Mapping[str, Any] | None = None,
    transposed: Sequence[str] = (),
    head_modules: Sequence[str] | None = None,
) -> dict[str, Any]:
    """A manifest; `digests` and `layout` are filled in when it is written.

    Args:
        task: `{"name": ..., "knobs": {...}}`.
        method: `{"name": ..., "knobs": {...}}`.
        metrics: figures; one that is not finite is null in the file.
        backbone: any of id, path_or_id, model_type, prefix, fingerprint, dtype, config, outputs, quantized.
        training: knobs of the fit that were not the defaults.
        transposed: the sites whose weight is (d_in, d_out).
        head_modules: the modules that are the head as a whole; None: names have to tell.

    Examples:
        >>> made = build(name="a", task={"name": "t", "knobs": {}}, labels=["x"], method={"name": "lora", "knobs": {}},
        ...              backbone={"prefix": "bert"})
        >>> made["schema"], made["trained_as"], made["backbone"]["fingerprint"]
        (2, 'lora', None)
    """
    unknown = ("id", "path_or_id", "model_type", "fingerprint", "dtype", "outputs", "quantized")
    return {
        "schema": SCHEMA,
        "petune": petune_version(),
        "name": name,
        "task": dict(task),
        "labels": list(labels),
        "method": dict(method),
        "trained_as": trained_as or method["name"],
        "seed": seed,
        "metrics": nulled(metrics or {}),
        "versions": versions(),
        "backbone": {**dict.fromkeys(unknown), "prefix": "", "config": {}, **backbone},
        "data": None if data is None else dict(data),
        "digests": {},
        "layout": {},
        "probe": None if probe is None else dict(probe),
        "untrained": untrained,
        "training": dict(training or {}),
        "transposed": list(transposed),
        "head_modules": None if head_modules is None else list(head_modules),
    }


def versions() -> dict[str, str]:
    """The versions that a result depends on, without importing any of the packages.

    Examples:
        >>> sorted(versions())[:2]
        ['accelerate', 'numpy']
    """
    found = {package: _installed(package) for package in _PACKAGES}
    return {"python": platform.python_version(), **{package: v for package, v in found.items() if v is not None}}


def petune_version() -> str:
    """The installed version of petune; `0.0.0` when it runs from a folder that was never installed."""
    return _installed("petune") or "0.0.0"


@functools.cache  # each look reads files, and a process runs with what it began with
def _installed(package: str) -> str | None:
    """The version of a package; None where there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def small_config(config: Any) -> dict[str, Any]:
    """The few facts of a transformers configuration that files and exports need."""
    return {key: getattr(config, key) for key in _CONFIG if getattr(config, key, None) is not None}


def validate(manifest: Mapping[str, Any], *, source: str, beside: Collection[str] = ()) -> None:
    """Checks form and types of a manifest that came from a file.

    Args:
        beside: further keys that may be there.

    Raises:
        AdapterFileError: newer schema (with the version to install), missing, unknown or ill-typed keys, or a name
            that cannot be one.
    """
    schema = manifest.get("schema")
    if type(schema) is int and schema > SCHEMA:
        made_by = manifest.get("petune", "a newer version")
        raise AdapterFileError(
            f"{source} has schema {schema}; petune {petune_version()} reads up to schema {SCHEMA}.",
            fix=f"Install the petune that wrote it: pip install 'petune>={made_by}'.",
        )
    _typed(manifest, _KEYS, source, "")
    if schema != SCHEMA:
        raise AdapterFileError(f"{source} has schema {schema}.", expected=f"1 to {SCHEMA}.", fix="Save it again.")
    _typed(manifest["backbone"], _BACKBONE, source, "backbone.")
    _closed(manifest["backbone"], _BACKBONE, source, "backbone.")
    _closed(manifest, [*_KEYS, *beside], source, "")
    for part in ("task", "method"):
        _typed(manifest[part], {"name": (str,), "knobs": (dict,)}, source, f"{part}.")
        _closed(manifest[part], ("name", "knobs"), source, f"{part}.")
    try:
        check_name(manifest["name"])
    except ConfigError as error:
        raise AdapterFileError(f"{source}: 'name': {error.what}", expected=error.expected, fix=error.fix) from None
    for key in ("transposed", "head_modules"):
        if not all(isinstance(item, str) for item in manifest[key] or ()):
            raise AdapterFileError(f"{source}: {key!r} holds other things than strings.", expected="A list of names.")
    if manifest["probe"] and not _shape_of(manifest["probe"].get("logits")):
        raise AdapterFileError(
            f"{source}: 'probe.logits' is no table of finite numbers.",
            expected="The answers of the adapter when it was saved.",
            fix="Save the adapter again.",
        )
    if not all(isinstance(label, str) for label in manifest["labels"]):
        raise AdapterFileError(f"{source}: 'labels' holds other things than strings.", expected="A list of strings.")
    if len(set(manifest["labels"])) != len(manifest["labels"]):
        raise AdapterFileError(f"{source}: a label occurs twice in 'labels'.", expected="Each label once.")


def _shape_of(table: Any, deepest: int = 6) -> tuple[int, ...]:
    """The shape of lists within lists of finite numbers; empty where they make no table."""
    if not isinstance(table, list) or not table or not deepest:
        return ()
    if all(type(item) in (int, float) for item in table):
        return (len(table),) if all(abs(item) <= _LARGEST for item in table) else ()
    inner = {_shape_of(item, deepest - 1) for item in table}
    return (len(table), *inner.pop()) if len(inner) == 1 and () not in inner else ()


def _closed(found: Mapping[str, Any], known: Iterable[str], source: str, path: str) -> None:
    known = list(known)
    for key in found:
        if key not in known:
            raise AdapterFileError(
                f"{source} has an unknown key {path + key!r}.",
                expected=f"The keys of schema {SCHEMA}.",
                fix=near(key, known),
            )


def _typed(found: Mapping[str, Any], wanted: Mapping[str, tuple[type, ...]], source: str, path: str) -> None:
    for key, types in wanted.items():
        if key not in found:
            raise AdapterFileError(
                f"{source} has no key {path + key!r}.", expected="A whole manifest.", fix="Save the adapter again."
            )
        if type(found[key]) not in types:  # exact: True is no int here
            names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in types)
            raise AdapterFileError(
                f"{source}: {path + key!r} is a {type(found[key]).__name__}.", expected=f"{names} was expected."
            )
