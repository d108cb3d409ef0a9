"""Metrics that are not ours: `evaluate` objects and plain functions, taken as they are."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from petune.errors import ConfigError, DataError
from petune.metrics._forms import Form, indicators


def compute_module(
    module: Any, name: str, form: Form, answers: list[Any], references: list[Any], labels: tuple[str, ...]
) -> dict[str, float]:
    """The figures of an `evaluate` object (or a combination of them), in the kind of input that it declares.

    Raises:
        ConfigError: when it fails; its own error is the cause.
    """
    if form != "number" and not _wants_strings(module):
        answers, references = (_indices(rows, form, labels) for rows in (answers, references))
    try:
        made = module.compute(predictions=answers, references=references)
    except Exception as error:
        raise _failed(name, error) from error
    return figures_of(made, name, labels)


def call_function(
    function: Callable[..., Any], name: str, answers: list[Any], references: list[Any], labels: tuple[str, ...]
) -> dict[str, float]:
    """The figures of `function(y_true, y_pred)`; a single one is called by the function's name.

    Raises:
        ConfigError: when it fails, or gives something else than figures.
    """
    try:
        made = function(references, answers)
    except Exception as error:
        raise _failed(name, error) from error
    return figures_of(made, name, labels)


def figures_of(made: Any, name: str, labels: Sequence[str]) -> dict[str, float]:
    """Flat figures: nested mappings join their keys, one value per class gets the class's name.

    Raises:
        ConfigError: for what is no figure.

    Examples:
        >>> figures_of({"f1": [0.5, 1.0], "LOC": {"recall": 1}}, "f1", ["a", "b"])
        {'f1_a': 0.5, 'f1_b': 1.0, 'LOC_recall': 1.0}
    """
    if isinstance(made, Mapping):
        inner = [(str(key), figures_of(value, str(key), labels), value) for key, value in made.items()]
        return {
            (f"{key}_{under}" if isinstance(value, Mapping) else under): figure
            for key, figures, value in inner
            for under, figure in figures.items()
        }
    if isinstance(made, (numbers.Real, np.generic)) or getattr(made, "ndim", None) == 0:
        return {name: float(made)}
    values = np.asarray(made)
    if values.ndim == 1 and len(values) == len(labels) and values.dtype.kind in "biuf":
        return {f"{name}_{label}": float(value) for label, value in zip(labels, values, strict=True)}
    raise ConfigError(
        f"The metric {name} gave {made!r}, a {type(made).__name__}.",
        expected="A metric gives a number, or a mapping of numbers.",
        fix="Wrap it in a function (y_true, y_pred) -> float | dict.",
    )


def _wants_strings(module: Any) -> bool:
    """Whether the declared predictions are strings, or lists of strings, in any of its formats."""
    first = getattr(module, "evaluation_modules", [module])[0]
    formats = getattr(first, "features", None) or []
    for features in formats if isinstance(formats, (list, tuple)) else [formats]:
        kind = features["predictions"]
        while isinstance(kind, (list, tuple)) or hasattr(kind, "feature"):
            kind = kind[0] if isinstance(kind, (list, tuple)) else kind.feature
        if getattr(kind, "dtype", None) == "string":
            return True
    return False


def _indices(rows: list[Any], form: Form, labels: tuple[str, ...]) -> list[Any]:
    """Class indices in place of names; zeros and ones for sets of labels."""
    order = {name: index for index, name in enumerate(labels)}
    try:
        if form == "labels":
            return indicators(rows, labels).tolist()
        return [[order[name] for name in row] for row in rows] if form == "tags" else [order[row] for row in rows]
    except KeyError as error:
        raise DataError(f"{error} is none of the {len(labels)} labels.") from None


def _failed(name: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"The metric {name} failed: {type(error).__name__}: {error}.",
        fix="Wrap it in a function (y_true, y_pred) -> float | dict that gives it what it needs.",
    )
