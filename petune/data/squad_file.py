"""SQuAD's own files: articles, their paragraphs, and the questions on each, in one object."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from petune.data.records import table_of
from petune.errors import DataError
from petune.tasks.base import Table

SHAPE = '{"version": ..., "data": [{"title": ..., "paragraphs": [{"context": ..., "qas": [{"question": ..., "answers": '
SHAPE += '[{"text": ..., "answer_start": ...}]}]}]}]}'


def squad_of(text: str) -> list[Any] | None:
    """The articles of a file in SQuAD's form; None: it is another one.

    Examples:
        >>> squad_of('{"version": "2.0", "data": [{"paragraphs": []}]}')
        [{'paragraphs': []}]
        >>> squad_of('{"question": "Who?", "data": []}') is None
        True
    """
    if '"paragraphs"' not in text:
        return None
    try:
        whole = json.loads(text)
    except ValueError:
        return None
    articles = whole.get("data") if isinstance(whole, Mapping) else None
    shaped = isinstance(articles, list) and all(isinstance(one, Mapping) and "paragraphs" in one for one in articles)
    return articles if shaped else None


def read_squad(articles: list[Any], path: Path) -> Table:
    """A row per question: id, title, context, question, answers as a dict of lists; `place` names article and question.

    Rajpurkar et al. 2016, arXiv:1606.05250; in version 2.0 (arXiv:1806.03822) `is_impossible` rows have no answers.

    Raises:
        DataError: a part of the form is missing, with its place.
    """
    found = [item for number, article in enumerate(articles) for item in _rows(article, number, path.name)]
    places = [place for place, _ in found]
    return table_of([row for _, row in found], path.name, lambda index: places[index])


def _rows(article: Any, number: int, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    title = str(article.get("title", number))
    for index, paragraph in enumerate(article["paragraphs"]):
        where = f"{name}, article {title!r}, paragraph {index}"
        context, questions = _part(paragraph, "context", where), _part(paragraph, "qas", where)
        for place, asked in enumerate(questions):
            told = f"{where}, question {place}"
            row = {"id": asked.get("id"), "title": title, "context": context}
            row |= {"question": _part(asked, "question", told), "answers": _answers(asked, told)}
            yield told, row


def _answers(asked: Mapping[str, Any], place: str) -> dict[str, list[Any]]:
    given = [] if asked.get("is_impossible") else _part(asked, "answers", place)
    return {key: [_part(answer, key, place) for answer in given] for key in ("text", "answer_start")}


def _part(whole: Any, key: str, place: str) -> Any:
    if isinstance(whole, Mapping) and key in whole:
        return whole[key]
    raise DataError(f"{place}: there is no {key!r}.", expected=f"The form of SQuAD's files is {SHAPE}.")
