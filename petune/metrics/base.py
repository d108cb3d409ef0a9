"""The contract of a metric, and computing many of them over one set of answers.

Importing this imports `evaluate`, which takes seconds; `petune.metrics` alone does not.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from typing import Any, ClassVar

import datasets
import evaluate

from petune.errors import ConfigError
from petune.lookup import find, name_of, names
from petune.metrics._foreign import call_function, compute_module
from petune.metrics._forms import Form, form_of
from petune.metrics._per_class import Row, per_class

_FORM_WORDS: dict[Form, str] = {
    "label": "single labels",
    "labels": "sets of labels",
    "tags": "rows of tags",
    "number": "numbers",
    "text": "texts",
    "ranking": "rankings",
}


class AnswerMetric(evaluate.Metric):
    """An `evaluate.Metric` that takes answers as tasks give them: strings, lists of strings, or numbers.

    It works in memory, without a network and without a file. A leaf has `forms` and `_compute(predictions,
    references, **_)`; the numbers come from scikit-learn or seqeval.
    """

    forms: ClassVar[tuple[Form, ...]] = ("label",)
    """The forms of answers that it can score."""
    smaller_is_better: ClassVar[tuple[str, ...]] = ()
    """Those of its keys that are better when smaller."""
    why: ClassVar[str] = ""
    """Why it cannot score the other forms, where that is not plain."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"keep_in_memory": True, **settings})

    def _build_data_dir(self) -> str:
        """evaluate's would make a folder, although nothing is ever written to it."""
        return super()._build_data_dir() if not self.keep_in_memory else os.path.join(self._data_dir_root, self.name)

    def _info(self) -> evaluate.MetricInfo:
        # The first that fits the first row is taken. Strings refuse all but strings, floats refuse lists.
        text, number, texts = datasets.Value("string"), datasets.Value("float64"), [datasets.Value("string")]
        kinds = ((text, text), (number, number), (texts, texts), (text, texts), (texts, text))
        features = [datasets.Features({"predictions": mine, "references": right}) for mine, right in kinds]
        about = inspect.getdoc(type(self)) or ""
        return evaluate.MetricInfo(description=about, citation="", inputs_description="", features=features)


CONTRACT = AnswerMetric
__all__ = ["CONTRACT", "AnswerMetric", "Row", "compute", "greater_is_better", "per_class", "scores_texts"]


def compute(
    metrics: Sequence[Any], answers: Sequence[Any], references: Sequence[Any], labels: Sequence[str] = ()
) -> dict[str, float]:
    """All figures of all metrics over one set of answers; a metric named twice is computed once, and one that is handed
    over with its settings stands in for its name.

    Args:
        metrics: names (`"f1"`), `evaluate` objects, or functions `(y_true, y_pred) -> float | dict`, whose name becomes
            the key. An `evaluate` object gets strings if its features are strings; if they are numbers (as with
            `evaluate.load("accuracy")`) it gets class indices, and rows of zeros and ones for sets of labels.
        answers: as `task.answers` gives them.
        references: as `task.references` gives them.
        labels: the classes in their order; none for numbers.

    Raises:
        UnknownNameError: a name that is no metric.
        ConfigError: a metric that cannot score this form of answers, or that failed; two metrics with the same key.
        DataError: no rows.

    Examples:
        >>> compute(["accuracy"], ["a", "b"], ["a", "a"], ["a", "b"])
        {'accuracy': 0.5}
    """
    form = form_of(answers, references, labels)
    figures: dict[str, float] = {}
    wanted: dict[Any, tuple[Any, str]] = {}
    for metric in metrics:
        made, name = _made(metric)
        same = name if isinstance(made, AnswerMetric) else id(made)
        if same not in wanted or not isinstance(metric, str):
            wanted[same] = made, name
    for made, name in wanted.values():
        for key, value in _figures(made, name, form, list(answers), list(references), tuple(labels)).items():
            if key in figures:
                raise ConfigError(f"Two metrics give a figure called {key!r}.", fix=f"Rename the one of {name}.")
            figures[key] = value
    return figures


def scores_texts(metric: Any) -> bool:
    """Whether a language model must write before this metric has something to score: petune's own say so, and functions
    and foreign objects are shown what people read.

    Examples:
        >>> scores_texts("rouge"), scores_texts("token-accuracy"), scores_texts(lambda true, answered: 0.0)
        (True, False, True)
    """
    made, _ = _made(metric)
    return "text" in made.forms if isinstance(made, AnswerMetric) else True


def _made(metric: Any) -> tuple[Any, str]:
    """The metric as an object or function, and a name for it."""
    made: Any = find("metrics", metric) if isinstance(metric, str) else metric
    if inspect.isclass(made) and issubclass(made, evaluate.EvaluationModule):
        cls: Any = made
        made = cls(keep_in_memory=True)
    if isinstance(made, AnswerMetric):
        return made, name_of("metrics", made)
    bare = getattr(made, "func", made)  # functools.partial has no name of its own
    return made, str(getattr(bare, "__name__", None) or getattr(made, "name", type(made).__name__))


def _figures(
    metric: Any, name: str, form: Form, answers: list[Any], references: list[Any], labels: tuple[str, ...]
) -> dict[str, float]:
    if isinstance(metric, AnswerMetric):
        if form not in metric.forms:
            raise ConfigError(
                f"The metric {name} cannot score {_FORM_WORDS[form]}. {metric.why}".strip(),
                expected=f"It scores {' or '.join(_FORM_WORDS[known] for known in metric.forms)}.",
                fix=f"Metrics that fit: {', '.join(_fitting(form))}.",
            )
        return dict(metric.compute(predictions=answers, references=references))
    if callable(getattr(metric, "compute", None)):
        return compute_module(metric, name, form, answers, references, labels)
    if callable(metric):
        return call_function(metric, name, answers, references, labels)
    raise ConfigError(
        f"{metric!r} is no metric.",
        expected="A metric is a name, an evaluate object, or a function (y_true, y_pred) -> float | dict.",
        fix=f"Names are {', '.join(names('metrics'))}.",
    )


def _fitting(form: Form) -> list[str]:
    return [name for name in names("metrics") if form in getattr(find("metrics", name), "forms", ())]


def greater_is_better(key: str) -> bool:
    """Whether a larger figure under this key is better; loss, and what own metrics declare, is better when smaller.

    Examples:
        >>> greater_is_better("f1_micro"), greater_is_better("loss"), greater_is_better("mae")
        (True, False, False)
    """
    key = key.removeprefix("eval_")
    if key in ("loss", "perplexity"):
        return False
    return not any(key in getattr(find("metrics", name), "smaller_is_better", ()) for name in names("metrics"))
