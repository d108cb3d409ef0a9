"""What a tokenizer or processor is saved as: its files, and all names under which transformers saves such things.

A save removes what an earlier adapter of the folder left behind, and nothing that somebody else may have put there.
`dict.txt` is a tokenizer's in transformers too, and as likely a user's own, so it is left alone.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

TOKENIZER_FILES = frozenset(
    {
        *("tokenizer_config.json", "tokenizer.json", "special_tokens_map.json", "added_tokens.json"),
        *("chat_template.jinja", "chat_template.json", "generation_config.json"),
        *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
        *("audio_tokenizer_config.json", "vocab.json", "vocab.txt", "merges.txt", "bpe.codes"),
        *("tokenizer.model", "tiktoken.model", "spiece.model", "sentencepiece.bpe.model", "sentencepiece.model"),
        *("spm.model", "spm_char.model", "source.spm", "target.spm", "vocab-src.json", "vocab-tgt.json"),
        *("target_vocab.json", "entity_vocab.json", "prophetnet.tokenizer", "normalizer.json", "byte_maps.json"),
        *("emoji.json", "word_shape.json", "word_pronunciation.json"),
    }
)
"""Names of files."""


def files_of(tokenizer: Any) -> dict[str, bytes]:
    """File name -> bytes of what a tokenizer, or what reads in its place, saves of itself."""
    with tempfile.TemporaryDirectory() as place:
        tokenizer.save_pretrained(place)
        return {path.name: path.read_bytes() for path in sorted(Path(place).iterdir()) if path.is_file()}
