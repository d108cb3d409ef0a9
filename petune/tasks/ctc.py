"""Speech to its letters, for encoders of sounds: wav2vec 2.0's kind, by connectionist temporal classification.

The head says at every frame which letter is heard there, or none (the blank, class 0); equal letters in a row are one,
and the blanks fall away. Of all ways in which a transcript can lie over the frames the loss sums the probabilities.

Graves et al. 2006, "Connectionist Temporal Classification"; Baevski et al. 2020, "wav2vec 2.0", arXiv:2006.11477.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from petune.errors import ConfigError, DataError
from petune.knobs import check, knobs
from petune.tasks._columns import columns_found, find_column, named_column, some_rows
from petune.tasks._hearing import AUDIO, LONGEST, heard, longest_of
from petune.tasks._padding import pad, pad_inputs
from petune.tasks._texts import texts_of
from petune.tasks._things import rows_of_things
from petune.tasks.base import IGNORE, Batch, Encoded, Example, Reads, Table, Task
from petune.tasks.speech_to_text import TRANSCRIPT

BLANK = 0
"""The class of a frame in which no letter is heard."""


@knobs
class CTC(Task):
    """Sounds to the letters that are spoken in them; the head is new, and learns the letters of the training rows.

    Args:
        audio: the column of the sounds; None finds it by its name. Cells are those of `AudioClassification`.
        text: the column of the transcripts; None finds it by its name.
        letters: that may be heard, one character each; empty: those of the training rows. A blank stands between words.
        lowercase: whether transcripts are lowered, so that a letter is one class; answers are then lower case too.
        seconds: that are heard of each sound: longer ones are cut, shorter ones end in silence. None takes the longest
            training sound, at most 30.
        sampling_rate: samples a second of arrays that do not tell.

    Examples:
        >>> rows = [{"audio": (np.zeros(8000), 16_000), "text": text} for text in ("Go on", "no")]
        >>> learnt = CTC().learn(Table(rows, ("audio", "text")))
        >>> learnt.letters, learnt.seconds
        ((' ', 'g', 'n', 'o'), 0.5)
    """

    auto_class: ClassVar[str] = "AutoModelForCTC"
    reads: ClassVar[Reads] = "feature_extractor"

    audio: str | None = None
    text: str | None = None
    letters: tuple[str, ...] = ()
    lowercase: bool = True
    seconds: float | None = None
    sampling_rate: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.seconds is None or 0.1 <= self.seconds <= LONGEST, "seconds", self.seconds, "None, or 0.1 to 30")
        object.__setattr__(self, "letters", tuple(map(str, self.letters)))
        if any(len(letter) != 1 for letter in self.letters) or len(set(self.letters)) < len(self.letters):
            raise ConfigError(f"letters={self.letters!r} are not single characters, each once.", fix="Leave it out.")
        if self.labels:
            raise ConfigError("Transcripts have no labels.", fix="Name the letters that may be heard: letters=...")

    # ------------------------------------------------------------------ learning from the training rows

    def learn(self, table: Table) -> Self:
        """A copy with columns, letters and length filled in; letters that were given stay.

        Raises:
            DataError: no rows, no such column, an empty transcript, or a sound that cannot be read.
        """
        some_rows(table)
        audio = find_column(table, self.audio, "audio", AUDIO)
        text = find_column(table, self.text, "text", TRANSCRIPT)
        found = dataclasses.replace(self, audio=audio, text=text)
        heard_of = sorted(set(itertools.chain(*found._transcripts(table))))
        seconds = longest_of(table, audio, self.sampling_rate) if self.seconds is None else self.seconds
        return dataclasses.replace(found, letters=self.letters or tuple(heard_of), seconds=seconds)

    def chosen(self, given: Task) -> list[str]:
        """What `learn` filled in beyond the `given` task, as sentences."""
        assert isinstance(given, CTC)
        said = columns_found(self, given, "audio", "text")
        if not given.letters:
            said.append(f"{len(self.letters)} letters: {''.join(self.letters)!r}.")
        if given.seconds is None:
            said.append(f"{self.seconds:g} seconds of each sound are heard (seconds=... says otherwise).")
        return said

    def strata(self, table: Table) -> list[set[str]] | None:
        """None: transcripts are no classes."""
        return None

    def _transcripts(self, table: Table) -> list[str]:
        """The texts of all rows, blanks made one, as they are learnt."""
        texts = [" ".join(text.split()) for text in texts_of(table, named_column(table, self.text or "", "text"))]
        return [text.lower() for text in texts] if self.lowercase else texts

    # ------------------------------------------------------------------ rows to batches

    def model_config(self) -> dict[str, Any]:
        """One output per letter, and one for the blank."""
        self._need_learnt()
        return {"vocab_size": len(self.letters) + 1, "pad_token_id": BLANK}

    def table(self, texts: Sequence[Any]) -> Table:
        """Rows of sounds, or dicts with the columns of training.

        Raises:
            DataError: a single path in place of a list.
        """
        return rows_of_things(texts, self.audio or "audio", "the sounds")

    def encode(self, table: Table, tokenizer: Any, *, longest: int, labelled: bool) -> Encoded:
        """Rows to examples; every letter of a transcript is one supervised item.

        Raises:
            DataError: a bad sound or text, or a letter that is none of `letters`, with the row's place.
            ConfigError: the task has not learnt yet.
        """
        self._need_learnt()
        if labelled:
            some_rows(table)
        column = named_column(table, self.audio or "", "audio")
        sounds = heard(table, column, tokenizer, self.seconds or LONGEST, self.sampling_rate)
        for index, example in enumerate(sounds.examples):
            example["row"] = index
        if labelled:
            classes = {letter: number for number, letter in enumerate(self.letters, BLANK + 1)}
            for index, (example, text) in enumerate(zip(sounds.examples, self._transcripts(table), strict=True)):
                if unknown := sorted(set(text) - set(classes)):
                    raise DataError(
                        f"{table.place(index)}: the transcript has {unknown[0]!r}, which training never saw.",
                        expected=f"The letters are {''.join(self.letters)!r}.",
                        fix="Drop it from the transcript, or name all letters: letters=...",
                    )
                example |= {"labels": [classes[letter] for letter in text], "_truth": text}
        return sounds

    def collate(self, examples: Sequence[Example], tokenizer: Any) -> Batch:
        """inputs: what is heard, (B, ...); labels (B, L) int64, -100 behind the last letter."""
        inputs = pad_inputs(examples, tokenizer, "right")
        if "labels" not in examples[0]:
            return Batch(inputs, None)
        return Batch(inputs, pad([example["labels"] for example in examples], IGNORE))

    # ------------------------------------------------------------------ logits to losses and answers

    def loss(
        self, logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, class_weight: Tensor | None = None
    ) -> Tensor:
        """The sum over rows of -log P(transcript | frames), (B, F, V) and (B, L).

        A transcript that does not fit into its frames has no way to lie over them: it adds nothing.
        """
        scores = functional.log_softmax(logits.float(), -1).transpose(0, 1)  # (F, B, V)
        known = labels != IGNORE
        frames = torch.full((len(labels),), len(scores), dtype=torch.long)
        return functional.ctc_loss(
            scores, labels[known], frames, known.sum(1).cpu(), blank=BLANK, reduction="sum", zero_infinity=True
        )

    def count(self, example: Example) -> int:
        """One supervised item per letter."""
        return len(example["labels"])

    def class_counts(self, examples: Sequence[Example]) -> np.ndarray:
        """Raises ConfigError: letters are not weighed."""
        raise ConfigError("class_weight does not go with transcripts.", fix="Leave it out.")

    def split(self, logits: Tensor, examples: Sequence[Example]) -> list[np.ndarray]:
        """(B, F, V) to B arrays (F, V) float32."""
        return list(logits.detach().float().cpu().numpy())

    def answers(self, logits: Sequence[np.ndarray], examples: Sequence[Example]) -> list[Any]:
        """Per row its text: the likeliest class of each frame, equal ones in a row once, without blanks."""
        return [self._read(row.argmax(-1).tolist()) for row in logits]

    def _read(self, classes: Sequence[int]) -> str:
        said = (number for number, _ in itertools.groupby(classes))
        return " ".join("".join(self.letters[number - 1] for number in said if number != BLANK).split())

    def probabilities(self, logits: Sequence[np.ndarray], examples: Sequence[Example]) -> Any:
        """Raises ConfigError: a text has no classes."""
        raise ConfigError("A transcript has no probabilities of classes.", fix="Use predict.")

    def references(self, examples: Sequence[Example]) -> list[Any]:
        """The true transcripts."""
        return [example["_truth"] for example in examples]

    def default_metrics(self) -> tuple[Any, ...]:
        """Word and character error rate."""
        return ("wer", "cer")

    def headline(self) -> str:
        """The figure that picks the best adapter: at first every word is wrong, which tells no epochs apart."""
        return "loss"

    def _need_learnt(self) -> None:
        if self.audio is None or not self.letters:
            raise ConfigError(
                "The task has not learnt its columns yet.", fix="Call learn(table) with the training rows first."
            )
