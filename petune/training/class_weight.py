"""From `TrainConfig.class_weight` to one weight per class."""

from __future__ import annotations

import math
from collections.abc import Sequence

from petune.config import TrainConfig
from petune.errors import ConfigError
from petune.knobs import check
from petune.lookup import unknown
from petune.tasks._labels import label_name
from petune.tasks.base import Example, Task


def class_weights(task: Task, examples: Sequence[Example], config: TrainConfig) -> dict[str, float] | None:
    """Label -> weight in class order, or None when no weights were asked for.

    `"balanced"` is scikit-learn's formula n / (C * count), so a rare class weighs more; a class that no
    row has keeps 1. A mapping names some labels (0 is `"0"`, as in the data), the others
    keep 1.

    Raises:
        UnknownNameError: for a label that the task does not have.
        ConfigError: for a weight that is not a positive number, or a word other than `"balanced"`.
        DataError: for a task without classes.
    """
    asked = config.class_weight
    if asked is None:
        return None
    counts = [int(count) for count in task.class_counts(examples)]
    if asked == "balanced":
        share = sum(counts) / len(counts)
        return {label: share / count if count else 1.0 for label, count in zip(task.labels, counts, strict=True)}
    if isinstance(asked, str):
        raise ConfigError(f"class_weight={asked!r} is not known.", expected="'balanced', or a mapping label -> weight.")
    given = {label_name(label, "class_weight"): weight for label, weight in asked.items()}
    for label, weight in given.items():
        if label not in task.labels:
            raise unknown("label", label, task.labels)
        check(weight > 0 and math.isfinite(weight), f"class_weight[{label!r}]", weight, "a positive number")
    return {label: float(given.get(label, 1.0)) for label in task.labels}
