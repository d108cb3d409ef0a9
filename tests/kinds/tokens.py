"""Token classification; OPT and BART have none in transformers."""

from __future__ import annotations

from petune.tasks.token_classification import TokenClassification as task  # noqa: F401
from tests import tiny
from tests.kinds import pieces as real  # noqa: F401
from tests.tiny import tag_rows as rows  # noqa: F401

FAMILIES = tuple(family for family in tiny.FAMILIES if family not in ("opt", "bart"))
