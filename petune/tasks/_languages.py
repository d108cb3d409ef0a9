"""Tokenizers of models of many languages (mBART, NLLB, M2M-100), which mark what they read and what is written."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from petune.errors import ConfigError
from petune.lookup import near

_lock = threading.RLock()


def marks_languages(tokenizer: Any) -> bool:
    """Whether a tokenizer puts a piece for the language before or after a text."""
    return hasattr(tokenizer, "src_lang") and hasattr(tokenizer, "tgt_lang")


def need_languages(tokenizer: Any, *codes: str | None) -> None:
    """Refuses codes that a tokenizer does not know, and none where it would take some language by itself.

    Raises:
        ConfigError: with the near code.
    """
    if not marks_languages(tokenizer):
        return
    known = sorted(_codes(tokenizer))
    for code in codes:
        if code is None:
            raise ConfigError(
                f"The tokenizer {type(tokenizer).__name__} marks languages, and none was named.",
                expected=f"It knows {len(known)}, such as {', '.join(known[:6])}.",
                fix="Pass Translation(source_language=..., target_language=...).",
            )
        if code not in known:
            raise ConfigError(
                f"The tokenizer {type(tokenizer).__name__} knows no language {code!r}.", fix=near(code, known)
            )


def starting_in(tokenizer: Any, source: str | None, target: str | None) -> dict[str, int]:
    """The option of `generate` by which a text is written in a language; none where the tokenizer marks none.

    mBART ends its targets with their language, which is turned round to be the first piece that the decoder reads;
    mBART-50, NLLB and M2M-100 begin them with it.
    """
    if target is None or not marks_languages(tokenizer):
        return {}
    code = _codes(tokenizer)[target]
    with tell_languages(tokenizer, source, target):
        pieces = tokenizer(text_target="a")["input_ids"]
    return {"decoder_start_token_id" if pieces[-1] == code else "forced_bos_token_id": code}


@contextmanager
def tell_languages(tokenizer: Any, source: str | None, target: str | None) -> Iterator[None]:
    """Inside, the tokenizer marks these languages; adapters that share it take turns."""
    if source is None or not marks_languages(tokenizer):
        yield
        return
    with _lock:
        before = tokenizer.src_lang, tokenizer.tgt_lang
        tokenizer.src_lang, tokenizer.tgt_lang = source, target
        try:
            yield
        finally:
            tokenizer.src_lang, tokenizer.tgt_lang = before


def _codes(tokenizer: Any) -> dict[str, int]:
    """Language code -> number of its piece; M2M-100 writes `__en__` for `en`."""
    known = getattr(tokenizer, "lang_code_to_id", None) or {
        piece: tokenizer.convert_tokens_to_ids(piece) for piece in tokenizer.all_special_tokens if "_" in piece
    }
    return {str(code).strip("_"): int(number) for code, number in known.items()}
