"""Which evaluation was the best, and when waiting for a better one is over."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from petune.config import TrainConfig
from petune.errors import ConfigError
from petune.lookup import unknown


@dataclass
class Selection:
    """Keeps the best score so far and counts the evaluations since.

    Args:
        metric: the figure to look at.
        greater: whether a larger one is better.
        patience: evaluations without improvement before `over`; None: never.

    Examples:
        >>> selection = Selection("accuracy", greater=True, patience=1)
        >>> selection.improves({"accuracy": 0.5}, step=10), selection.improves({"accuracy": 0.4}, step=20)
        (True, False)
        >>> selection.over, selection.best_step
        (True, 10)
    """

    metric: str
    greater: bool
    patience: int | None = None
    best: dict[str, float] = field(default_factory=dict)
    best_step: int | None = None
    waited: int = 0

    def improves(self, figures: dict[str, float], step: int) -> bool:
        """Takes in one evaluation; whether it is the best so far. A tie is not."""
        if self.beats(figures, self.best):
            self.best, self.best_step, self.waited = dict(figures), step, 0
            return True
        self.waited += 1
        return False

    def beats(self, figures: Mapping[str, float], others: Mapping[str, float]) -> bool:
        """Whether the first is better than the second; no figures, and one that is not finite, lose to any number."""
        return self._score(figures) > self._score(others)

    def _score(self, figures: Mapping[str, float]) -> float:
        figure = figures.get(self.metric, math.nan)
        return (figure if self.greater else -figure) if math.isfinite(figure) else -math.inf

    def doubt(self, figures: Mapping[str, float]) -> str | None:
        """A sentence for an evaluation that cannot be compared, None for all others."""
        if math.isfinite(figures[self.metric]):
            return None
        return f"The figure {self.metric!r} was not finite in an evaluation, which then could not be the best one."

    @property
    def over(self) -> bool:
        """Whether the run should stop early."""
        return self.patience is not None and self.waited >= self.patience

    def to_json(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return asdict(self)


def make_selection(config: TrainConfig, headline: str, known: Iterable[str]) -> Selection:
    """The selection that a configuration asks for.

    Args:
        headline: the task's own figure, taken when the configuration names none.
        known: the figures that an evaluation gives.

    Raises:
        UnknownNameError: for a metric that the evaluation does not give.
        ConfigError: for a function of the user's, when it is not said whether larger is better.
    """
    from petune.metrics.base import greater_is_better  # imports evaluate, which takes seconds

    metric = config.metric or headline
    figures = set(known)
    if metric not in figures:
        raise unknown("figure", metric, figures)
    own = any(getattr(given, "__name__", None) == metric for given in config.metrics)
    if own and config.greater_is_better is None:
        raise ConfigError(
            f"metric={metric!r} is a function of yours.",
            expected="Nobody else knows whether a larger figure is better.",
            fix="Pass greater_is_better=True or greater_is_better=False.",
        )
    greater = greater_is_better(metric) if config.greater_is_better is None else config.greater_is_better
    return Selection(metric, greater, config.patience)


def refuse_without_evaluation(config: TrainConfig) -> None:
    """Refuses knobs that need eval data when there are none.

    Raises:
        ConfigError: for `patience` or `metric` without eval data.
    """
    for name in ("patience", "metric"):
        if getattr(config, name) is not None:
            raise ConfigError(
                f"{name}={getattr(config, name)!r} was given without eval data.",
                expected="It looks at evaluations.",
                fix="Pass eval_data=0.1 (or a file), or drop it.",
            )
