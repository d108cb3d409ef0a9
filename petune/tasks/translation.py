"""One language to another, for an encoder-decoder such as Marian, T5, BART, mBART or NLLB."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

from petune.errors import ConfigError, DataError
from petune.knobs import knobs
from petune.lookup import near
from petune.tasks._columns import cells, literal
from petune.tasks._languages import need_languages, starting_in, tell_languages
from petune.tasks.base import Encoded, Table
from petune.tasks.seq2seq_lm import Seq2SeqLM

NESTED = "translation"
"""The column in which the hub's data sets keep both texts, `{"en": ..., "fr": ...}`."""


@knobs
class Translation(Seq2SeqLM):
    """Texts to their translations; what is written is scored by BLEU, chrF and ROUGE.

    A row has a column for each language, or one column `translation` that holds both by their codes, as the hub's data
    sets have it.

    Args:
        source_language, target_language: the codes that the tokenizer of a model of many languages knows (`en_XX` of
            mBART, `eng_Latn` of NLLB): it marks what it reads, and the translation begins with its language. Such
            a model needs both. For other models they only name the columns, or the keys of `translation`.
        source, target, prefix, max_new_tokens, generation, max_length: see `Seq2SeqLM`.

    Raises:
        ConfigError: one language without the other.

    Examples:
        >>> table = Table([{"translation": {"en": "good day", "fr": "bonjour"}}], ("translation",))
        >>> learnt = Translation(source_language="en", target_language="fr").learn(table)
        >>> learnt.source, learnt.target
        ('en', 'fr')
    """

    source_language: str | None = None
    target_language: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.source_language is None) != (self.target_language is None):
            raise ConfigError(
                "One language was named, and the other was not.",
                expected="A translation goes from source_language to target_language.",
                fix="Name both.",
            )

    def learn(self, table: Table) -> Self:
        """A copy whose columns are filled in.

        Raises:
            DataError: no rows, or no such column.
        """
        nested = NESTED in table.columns
        table, named = self.unfolded(table), self
        codes = (self.source_language, self.target_language)
        if nested and self.target_language is not None and self.target_language not in table.columns:
            raise DataError(
                f"The column {NESTED!r} of {table.source} has no language {self.target_language!r}.",
                expected=f"Its columns and languages are {', '.join(map(repr, table.columns))}.",
                fix=near(self.target_language, table.columns),
            )
        if self.source is None and self.target is None and set(codes) <= set(table.columns):
            named = dataclasses.replace(self, source=codes[0], target=codes[1])
        return super(Translation, named).learn(table)

    def encode(self, table: Table, tokenizer: Any, *, longest: int, labelled: bool) -> Encoded:
        """Rows to examples, marked with their languages where the tokenizer does that.

        Raises:
            ConfigError: a language that the tokenizer does not know, or none where it needs them.
            DataError, BackboneError: as `Seq2SeqLM`.
        """
        need_languages(tokenizer, self.source_language, self.target_language)
        with tell_languages(tokenizer, self.source_language, self.target_language):
            return super().encode(self.unfolded(table), tokenizer, longest=longest, labelled=labelled)

    def table(self, texts: Sequence[Any]) -> Table:
        """Rows of sources.

        Raises:
            DataError: a single string.
        """
        found = super().table(texts)
        nested = any(NESTED in row for row in found.rows)
        return dataclasses.replace(found, columns=(*found.columns, NESTED)) if nested else found

    def decoding(self, tokenizer: Any) -> dict[str, Any]:
        """What is written begins with the piece of its language, where there is one."""
        return {**super().decoding(tokenizer), **starting_in(tokenizer, self.source_language, self.target_language)}

    def text_metrics(self) -> tuple[str, ...]:
        """BLEU and chrF, as papers on translation quote them; ROUGE besides."""
        return ("bleu", "chrf", "rouge")

    def unfolded(self, table: Table) -> Table:
        """The rows with both texts of `translation` in columns of their own."""
        if NESTED not in table.columns:
            return table
        pairs = [_unwritten(value) for _, value in cells(table, NESTED)]
        if not any(isinstance(pair, Mapping) for pair in pairs):
            return table
        if self.source_language is None:
            keys = dict.fromkeys(key for pair in pairs if isinstance(pair, Mapping) for key in pair)
            raise DataError(
                f"{table.source} keeps both texts in the column {NESTED!r}.",
                expected=f"Its languages are {', '.join(map(repr, keys))}.",
                fix="Pass source_language=... and target_language=...",
            )
        rows = [self._row(table.place(index), row, pairs[index]) for index, row in enumerate(table.rows)]
        columns = tuple(dict.fromkeys(key for row in rows for key in row))
        return dataclasses.replace(table, rows=rows, columns=columns)

    def _row(self, place: str, row: Mapping[str, Any], found: Any) -> dict[str, Any]:
        if not isinstance(found, Mapping):
            raise DataError(f"{place}: the column {NESTED!r} holds {found!r}.", expected="A mapping of two texts.")
        if self.source_language not in found:
            raise DataError(
                f"{place}: the column {NESTED!r} has no language {self.source_language!r}.",
                fix=near(str(self.source_language), found),
            )
        return {**{key: value for key, value in row.items() if key != NESTED}, **found}


def _unwritten(value: Any) -> Any:
    """A mapping that is written as text (a csv file has no other way) as what was written; all else as it is."""
    if not isinstance(value, str) or not value.strip().startswith("{"):
        return value
    try:
        return literal(value.strip())
    except ValueError:  # a text of its own, or the error that follows shows it
        return value
