"""The model card: facts that are in the manifest, and nothing else. What is not known is left out."""

from __future__ import annotations

from typing import Any

from petune.storage import peft_format
from petune.storage.snippets import hub_id, pipeline, snippets
from petune.storage.stored import Stored


def card(stored: Stored, *, folder: str = ".") -> str:
    """The text of `README.md`.

    Args:
        folder: what the loading code names; a hub id when it is pushed.
    """
    blocks = [
        f"---\n{_header(stored)}\n---",
        f"# {stored.manifest['name']}",
        _summary(stored),
        _table("Labels", ("class", "label"), list(enumerate(stored.manifest["labels"]))),
        _table("Results", ("metric", "value"), [(k, _number(v)) for k, v in _metrics(stored).items()]),
        _loading(stored, folder),
        _table("Training", ("knob", "value"), _knobs(stored)),
        _table("Versions", ("package", "version"), sorted(stored.manifest["versions"].items())),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _header(stored: Stored) -> str:
    """The YAML at the top, as the hub reads it."""
    from huggingface_hub import EvalResult, ModelCardData

    task = stored.manifest["task"]["name"]
    base = hub_id(stored)
    tag = pipeline(stored)
    data = (stored.manifest["data"] or {}).get("source") or "training data"
    results = [
        EvalResult(
            task_type=tag or task,
            dataset_type=str(data),
            dataset_name=str(data),
            metric_type=name,
            metric_value=value,
        )
        for name, value in _metrics(stored).items()
    ]
    reads = peft_format.why_no_peft_config(stored) is None
    return ModelCardData(
        library_name="peft" if reads else "petune",
        base_model=base,
        base_model_relation="adapter" if base else None,
        pipeline_tag=tag,
        tags=["petune", stored.manifest["trained_as"], *([f"base_model:adapter:{base}"] if base else [])],
        model_name=stored.manifest["name"] if results else None,
        eval_results=results or None,
    ).to_yaml()


def _summary(stored: Stored) -> str:
    tensors = [t for named in stored.layers.values() for t in named.values()]
    adapter, head = (sum(t.numel() for t in part) for part in (tensors, stored.head.values()))
    sites = f" at {len(stored.layers)} sites" if list(stored.layers) != [""] else ""
    base = hub_id(stored)
    on = f" on `{base}`" if base else f" on a `{stored.manifest['backbone']['model_type']}` backbone"
    return (
        f"A petune adapter for {stored.manifest['task']['name']}{on}: method `{stored.manifest['trained_as']}`, "
        f"{adapter:,} parameters{sites}, and a head of {head:,}."
    )


def _loading(stored: Stored, folder: str) -> str:
    """Code that runs as it stands, and why there is none for peft where there is none."""
    blocks = [f"With {made.title}:\n\n```python\n{made.code}\n```" for made in snippets(stored, folder)]
    why = peft_format.why_no_peft_config(stored)
    return "\n\n".join(["## Use", *blocks, *([f"Not for peft: {why}"] if why is not None else [])])


def _knobs(stored: Stored) -> list[tuple[str, str]]:
    """The method's knobs that differ from its defaults, then seed and data."""
    defaults = _defaults(stored)
    shown = [
        (name, _value(value))
        for name, value in stored.knobs.items()
        if name not in defaults or _plain(defaults[name]) != _plain(value)
    ]
    seed, data = stored.manifest["seed"], stored.manifest["data"] or {}
    return [
        *shown,
        *([("seed", str(seed))] if seed is not None else []),
        *((f"data {k}", _value(v)) for k, v in data.items()),
    ]


def _defaults(stored: Stored) -> dict[str, Any]:
    from dataclasses import fields

    from petune import lookup
    from petune.errors import PetuneError

    try:
        plain = lookup.find("methods", stored.method)()
    except (PetuneError, TypeError):
        return {}
    return {field.name: getattr(plain, field.name) for field in fields(plain)}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else dict(value) if hasattr(value, "keys") else value


def _value(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _metrics(stored: Stored) -> dict[str, float]:
    return {
        k: v for k, v in stored.manifest["metrics"].items() if isinstance(v, int | float) and not isinstance(v, bool)
    }


def _number(value: float) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _table(title: str, heads: tuple[str, str], rows: list[Any]) -> str:
    """A Markdown table; nothing when there are no rows."""
    if not rows:
        return ""
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in [list(heads), ["---"] * len(heads), *cells]]
    return "\n".join([f"## {title}", "", *lines])
