"""One label per sound."""

from __future__ import annotations

from petune.tasks.audio_classification import AudioClassification as task  # noqa: F401
from tests.media import feature_extractor as reads  # noqa: F401
from tests.media import sounds as rows  # noqa: F401

FAMILIES = ("wav2vec2", "whisper")
