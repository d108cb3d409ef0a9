"""Speech to its words, for an encoder-decoder that hears and writes: Whisper's kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from petune.errors import BackboneError, ConfigError
from petune.knobs import check, knobs
from petune.tasks._columns import Names, columns_found, find_column, named_column, some_rows
from petune.tasks._hearing import AUDIO, LONGEST, heard
from petune.tasks._padding import Side, pad, pad_inputs
from petune.tasks._texts import piece_limit, texts_of
from petune.tasks._things import rows_of_things
from petune.tasks._writing import WritingTask, cut_notice, ended, pieces_of
from petune.tasks.base import IGNORE, Batch, Encoded, Example, Reads, Table, Task

TRANSCRIPT = Names(("text", "transcript", "transcription"), ("sentence", "target", "words", "label"))
SPOKEN = ("language", "task")
"""Options of Whisper's own `generate`, which are told by the first pieces of a transcript."""


@knobs
class SpeechToText(WritingTask):
    """Sounds to the words that are spoken in them.

    A transcript begins with the pieces that tell Whisper what to do (language, task, no timestamps); they are given,
    never learnt. Name the language of a multilingual model: `generation={"language": "en", "task": "transcribe"}`.

    Args:
        audio: the column of the sounds; None finds it by its name. Cells are those of `AudioClassification`.
        text: the column of the transcripts; None finds it by its name.
        seconds: that are heard of each sound, at most 30; longer ones are cut, which is told.
        sampling_rate: samples a second of arrays that do not tell.
        max_new_tokens, generation: see `WritingTask`; `language` and `task` are words of the tokenizer.
        max_length: pieces per transcript; see `Task`.

    Examples:
        >>> table = Table([{"audio": "a.wav", "text": "go forward"}], ("audio", "text"))
        >>> learnt = SpeechToText().learn(table)
        >>> learnt.audio, learnt.text
        ('audio', 'text')
    """

    auto_class: ClassVar[str] = "AutoModelForSpeechSeq2Seq"
    reads: ClassVar[Reads] = "processor"
    side: ClassVar[Side] = "right"
    shifted: ClassVar[bool] = False

    audio: str | None = None
    text: str | None = None
    seconds: float = LONGEST
    sampling_rate: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0.1 <= self.seconds <= LONGEST, "seconds", self.seconds, "from 0.1 to 30")

    def learn(self, table: Table) -> Self:
        """A copy whose columns are filled in.

        Raises:
            DataError: no rows, or no such column.
        """
        some_rows(table)
        return dataclasses.replace(
            self,
            audio=find_column(table, self.audio, "audio", AUDIO),
            text=find_column(table, self.text, "text", TRANSCRIPT),
        )

    def chosen(self, given: Task) -> list[str]:
        """The columns that `learn` found."""
        return columns_found(self, given, "audio", "text")

    def table(self, texts: Sequence[Any]) -> Table:
        """Rows of sounds, or dicts with the columns of training.

        Raises:
            DataError: a single path in place of a list.
        """
        return rows_of_things(texts, self.audio or "audio", "the sounds")

    def options(self) -> dict[str, Any]:
        """The options of `generate`, without those that the first pieces tell."""
        return {name: value for name, value in super().options().items() if name not in SPOKEN}

    def encode(self, table: Table, tokenizer: Any, *, longest: int, labelled: bool) -> Encoded:
        """Rows to examples; transcripts above the limit are cut at their end, and counted.

        Raises:
            DataError: a bad sound or text, with the row's place.
            ConfigError: `max_length` above `longest`, a language or task that the tokenizer does not know, or the task
                has not learnt yet.
            BackboneError: the processor has no tokenizer.
        """
        self._need_learnt()
        if labelled:
            some_rows(table)
        words, extractor = parts_of(tokenizer)
        limit = piece_limit(self.max_length, longest)
        sounds = heard(
            table, named_column(table, self.audio or "", "audio"), extractor, self.seconds, self.sampling_rate
        )
        front = first_pieces(words, self.generation)
        notices = list(sounds.notices)
        for index, example in enumerate(sounds.examples):
            example |= {"row": index, "decoder_input_ids": front}
        if labelled:
            texts = texts_of(table, named_column(table, self.text or "", "text"))
            written = [ended(row, words) for row in pieces_of(texts, words, specials=False)]
            room = limit - len(front)
            for example, row, text in zip(sounds.examples, written, texts, strict=True):
                read = [*front, *row[:room][:-1]]
                example |= {
                    "decoder_input_ids": read,
                    "decoder_attention_mask": [1] * len(read),
                    "labels": [IGNORE] * (len(front) - 1) + row[:room],
                    "_truth": text,
                    "_front": len(front),
                }
            lengths = [len(row) for row in written]
            cut = sum(length > room for length in lengths)
            notices += [f"Transcripts in {notice}" for notice in cut_notice(table, cut, room, max(lengths))]
        return Encoded(sounds.examples, notices)

    def written(self, pieces: Sequence[int], prompt: int, tokenizer: Any) -> str:
        """The transcript, without the blank that Whisper's begin with."""
        return super().written(pieces, prompt, tokenizer).strip()

    def decoding(self, tokenizer: Any) -> dict[str, Any]:
        """The options of `generate` that the tokenizer asks for."""
        return super().decoding(parts_of(tokenizer)[0])

    def prompt_of(self, example: Example) -> Example:
        """The sound of a labelled example, and the pieces that its transcript begins with."""
        kept = {name: value for name, value in example.items() if hasattr(value, "__array__")}
        front = example["decoder_input_ids"][: example["_front"]]
        return {**kept, "decoder_input_ids": front, "row": example["row"], "_pieces": example["_pieces"]}

    def collate(self, examples: Sequence[Example], tokenizer: Any) -> Batch:
        """inputs: what is heard, (B, bins, frames), and the pieces read (B, T); labels (B, T) int64: what follows each,
        -100 where that is given."""
        inputs = pad_inputs(examples, tokenizer, "right")
        if "labels" not in examples[0]:
            return Batch(inputs, None)
        return Batch(inputs, pad([example["labels"] for example in examples], IGNORE))

    def text_metrics(self) -> tuple[str, ...]:
        """Word and character error rate of what is written."""
        return ("wer", "cer")

    def _need_learnt(self) -> None:
        if self.audio is None or self.text is None:
            raise ConfigError(
                "The task has not learnt its columns yet.", fix="Call learn(table) with the training rows first."
            )


def parts_of(processor: Any) -> tuple[Any, Any]:
    """The tokenizer and the feature extractor of a processor.

    Raises:
        BackboneError: it lacks one of them, or the tokenizer knows no first pieces.
    """
    words, extractor = getattr(processor, "tokenizer", None), getattr(processor, "feature_extractor", None)
    if not hasattr(words, "prefix_tokens") or extractor is None:
        raise BackboneError(
            f"A {type(processor).__name__} does not say how a transcript begins.",
            expected="The processor of a Whisper model was expected: a feature extractor and a WhisperTokenizer.",
            fix="Pass tokenizer=WhisperProcessor(feature_extractor, tokenizer).",
        )
    return words, extractor


def first_pieces(words: Any, generation: Mapping[str, Any]) -> list[int]:
    """The pieces with which transcripts begin, as `language` and `task` of the options say.

    Raises:
        ConfigError: words that the tokenizer does not know.
    """
    asked = {name: generation[name] for name in SPOKEN if generation.get(name) is not None}
    before = {name: getattr(words, name, None) for name in SPOKEN}
    try:
        for name, value in asked.items():
            setattr(words, name, value)
        pieces = list(words.prefix_tokens)
        if any(piece is None or piece >= len(words) for piece in pieces):
            raise ValueError("the tokenizer has no piece for it")
        return pieces
    except ValueError as error:
        raise ConfigError(
            f"Transcripts cannot begin with {asked}: {str(error).rstrip('.')}.",
            expected="language is a code such as 'en', task is 'transcribe' or 'translate'.",
            fix="Leave both out for a model of English alone.",
        ) from error
    finally:
        for name, value in before.items():
            setattr(words, name, value)
