"""Templates: a text around the cells of a row, with a place for the answer; and the words that answers are told by."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from typing import Any, NamedTuple

from petune.errors import ConfigError
from petune.tasks._words import lacks_space
from petune.tasks._writing import pieces_of

FIELD = re.compile(r"\{(\w*)\}")
MASK, CELLS = "mask", ("text", "text_pair")


class Part(NamedTuple):
    """A stretch of the template: literal text, or a field by its name; and whether white space is before it."""

    text: str
    field: str
    spaced: bool


def parsed(template: str, *, ends: bool) -> tuple[Part, ...]:
    """The parts of a template.

    Args:
        ends: whether `{mask}` must be the last, as for a model that only writes on.

    Raises:
        ConfigError: no `{mask}` or several, no `{text}`, a field of another name, or words behind the mask.

    Examples:
        >>> [part.field or part.text for part in parsed("{text} It was {mask}.", ends=False)]
        ['text', 'It was', 'mask', '.']
    """
    fields = FIELD.findall(template)
    odd = next((name for name in fields if name not in (MASK, *CELLS)), None)
    if odd is not None or fields.count(MASK) != 1 or "text" not in fields:
        what = f"has a field {{{odd}}}" if odd is not None else f"has the fields {', '.join(fields) or 'none'}"
        raise ConfigError(
            f"The template {template!r} {what}.",
            expected="It needs one '{mask}', where the answer stands, '{text}', and perhaps '{text_pair}'.",
            fix="Write it like '{text} It was {mask}.'",
        )
    if ends and template[template.index("{mask}") + len("{mask}") :].strip():
        raise ConfigError(
            f"The template {template!r} goes on behind its mask.",
            expected="A causal language model foretells what comes next, so '{mask}' is the end.",
            fix="Write it like '{text} It was {mask}', or use model='masked'.",
        )
    found, space = [], False
    for index, piece in enumerate(FIELD.split(template)):
        field = piece if index % 2 else ""
        if field or piece.strip():
            found.append(Part("" if field else piece.strip(), field, space or (not field and piece[0].isspace())))
            space = False
        space = not field and piece[-1:].isspace()
    return tuple(found)


def words_of(verbalizer: Mapping[str, Any], labels: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The words of each label, in the order of the labels; a label without an entry is its own word.

    Raises:
        ConfigError: an entry for no label, an empty one, one that is no word, or a word of two labels.
    """
    odd = next((label for label in verbalizer if label not in labels), None)
    if odd is not None:
        raise ConfigError(
            f"The verbalizer has words for {odd!r}, which is no label.", expected=f"Labels are {', '.join(labels)}."
        )
    found: list[tuple[str, ...]] = []
    for label in labels:
        given = verbalizer.get(label, label)
        if not isinstance(given, str | Sequence | Set):
            raise ConfigError(
                f"The verbalizer has {given!r} for {label!r}.", expected="A word, or a list of words, was expected."
            )
        words = tuple(str(word).strip() for word in ((given,) if isinstance(given, str) else given))
        if not words or not all(words):
            raise ConfigError(f"The verbalizer has no word for {label!r}.", fix="Give it a word.")
        found.append(words)
    said = [word for words in found for word in words]
    if len(set(said)) < len(said):
        twice = next(word for word in said if said.count(word) > 1)
        raise ConfigError(f"The verbalizer has the word {twice!r} twice.", expected="A word tells one label.")
    return tuple(found)


def first_pieces(
    words: Sequence[Sequence[str]], tokenizer: Any, *, spaced: bool
) -> tuple[list[list[int]], dict[str, str]]:
    """The piece that speaks for each word: its first; and, for words of several pieces, what that piece is.

    Args:
        spaced: whether white space stands before the mask.

    Raises:
        ConfigError: words of two labels that begin with the same piece, or one that the tokenizer does not know.
    """
    flat = [word for some in words for word in some]
    told = in_place(flat, tokenizer, [spaced] * len(flat))
    seen: dict[int, str] = {}
    long: dict[str, str] = {}
    for word, pieces in zip(flat, told, strict=True):
        if not pieces or pieces[0] == getattr(tokenizer, "unk_token_id", None):
            raise ConfigError(f"The tokenizer does not know the word {word!r}.", fix="Choose another word for it.")
        if pieces[0] in seen:
            raise ConfigError(
                f"The words {seen[pieces[0]]!r} and {word!r} both begin with the piece"
                f" {tokenizer.decode([pieces[0]])!r}.",
                expected="The first piece of a word tells its label.",
                fix="Choose another word for one of them.",
            )
        seen[pieces[0]] = word
        if len(pieces) > 1:
            long[word] = tokenizer.decode([pieces[0]])
    firsts = iter(seen)
    return [[next(firsts) for _ in some] for some in words], long


def in_place(texts: Sequence[str], tokenizer: Any, spaced: Sequence[bool]) -> list[list[int]]:
    """The pieces of stretches of text as they stand inside a longer one, without special pieces."""
    prefix = lacks_space(tokenizer)
    given = [" " * (prefix and space) + text.strip() for text, space in zip(texts, spaced, strict=True)]
    return pieces_of(given, tokenizer, specials=False)


def around(tokenizer: Any, *, ended: bool) -> tuple[list[int], list[int]]:
    """The special pieces before and behind a text; `ended`: whether there are any behind it."""
    made = tokenizer("a", return_special_tokens_mask=True, verbose=False)
    ids, specials = made["input_ids"], made["special_tokens_mask"]
    first = specials.index(0)
    last = len(specials) - 1 - specials[::-1].index(0)
    return ids[:first], ids[last + 1 :] if ended else []


def joined(parts: Sequence[list[int]], cells: Sequence[int], room: int) -> tuple[list[list[int]], bool]:
    """The parts in `room` pieces, and whether something was cut: the longest cell loses its end first.

    Args:
        cells: which of the parts may be cut.

    Raises:
        ConfigError: what must stay is longer than that.

    Examples:
        >>> joined([[1, 2, 3], [9]], [0], 3)
        ([[1, 2], [9]], True)
    """
    kept = [list(part) for part in parts]
    over = sum(map(len, kept)) - room
    cut = over > 0
    if over > sum(len(kept[cell]) for cell in cells):
        raise ConfigError(
            f"The template alone is longer than {room} pieces.", fix="Raise max_length, or shorten the template."
        )
    while over > 0:
        longest = max(cells, key=lambda cell: len(kept[cell]))
        others = [len(kept[cell]) for cell in cells if cell != longest]
        drop = min(over, max(1, len(kept[longest]) - max(others, default=0)))
        kept[longest] = kept[longest][: len(kept[longest]) - drop]
        over -= drop
    return kept, cut
