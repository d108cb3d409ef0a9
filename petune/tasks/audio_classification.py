"""One label per sound."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Self

from petune.knobs import check, knobs
from petune.tasks._classifying import Classifying
from petune.tasks._columns import Names
from petune.tasks._hearing import AUDIO, LONGEST, heard, longest_of
from petune.tasks.base import Encoded, Reads, Table, Task


@knobs
class AudioClassification(Classifying):
    """Sounds to labels, with the feature extractor that lies beside the backbone.

    Files of another sampling rate are resampled and channels are averaged, which is told. There is no augmentation.

    Args:
        audio: the column of the sounds; None finds it by its name. A cell is a path, the bytes of a file, a pair
            (array, sampling rate), an array, or what `datasets` keeps of one.
        label: the column of the labels; None finds it by its name.
        seconds: that are heard of each sound: longer ones are cut, shorter ones end in silence. None takes the longest
            training sound, at most 30.
        sampling_rate: samples a second of arrays that do not tell.
        labels: see `Task`.

    Examples:
        >>> import numpy as np
        >>> from petune.tasks.base import Table
        >>> rows = [{"audio": (np.zeros(8000), 16_000), "label": name} for name in ("yes", "no")]
        >>> learnt = AudioClassification().learn(Table(rows, ("audio", "label")))
        >>> learnt.seconds, learnt.labels
        (0.5, ('no', 'yes'))
    """

    auto_class: ClassVar[str] = "AutoModelForAudioClassification"
    reads: ClassVar[Reads] = "feature_extractor"
    thing: ClassVar[str] = "audio"
    things: ClassVar[Names] = AUDIO

    audio: str | None = None
    seconds: float | None = None
    sampling_rate: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.seconds is None or self.seconds >= 0.1, "seconds", self.seconds, "None or at least 0.1")
        check(
            self.sampling_rate is None or self.sampling_rate >= 1000,
            "sampling_rate",
            self.sampling_rate,
            "None or at least 1000 samples a second",
        )

    def learn(self, table: Table) -> Self:
        """A copy with columns, labels and length filled in.

        Raises:
            DataError: no rows, no such column, a single class, or a sound that cannot be read.
        """
        found = super().learn(table)
        if self.seconds is not None:
            return found
        return dataclasses.replace(found, seconds=longest_of(table, found.audio or "", self.sampling_rate))

    def chosen(self, given: Task) -> list[str]:
        """What `learn` filled in beyond the `given` task, as sentences."""
        assert isinstance(given, AudioClassification)
        said = super().chosen(given)
        if given.seconds is None and self.seconds is not None:
            said.append(f"{self.seconds:g} seconds of each sound are heard (seconds=... says otherwise).")
        return said

    def _read(self, table: Table, column: str, reader: object) -> Encoded:
        return heard(table, column, reader, self.seconds or LONGEST, self.sampling_rate)
