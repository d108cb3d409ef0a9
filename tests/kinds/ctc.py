"""The letters that are spoken in a sound."""

from __future__ import annotations

from typing import Any

from petune.tasks.ctc import CTC as task  # noqa: F401
from tests import media
from tests.media import feature_extractor as reads  # noqa: F401

FAMILIES = ("wav2vec2",)


def rows(n: int) -> list[dict[str, Any]]:
    """A tone, and a few letters for it."""
    said = {"low": "ab", "high": "b a", "middle": "ba"}
    return [{"audio": row["audio"], "text": said[row["label"]]} for row in media.sounds(n)]
