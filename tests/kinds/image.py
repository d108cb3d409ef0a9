"""One label per picture."""

from __future__ import annotations

from petune.tasks.image_classification import ImageClassification as task  # noqa: F401
from tests.media import image_processor as reads  # noqa: F401
from tests.media import pictures as rows  # noqa: F401

FAMILIES = ("vit", "dinov2")
