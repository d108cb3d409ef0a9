"""The chart that is filled in while a folder is examined; at the end it becomes a diagnosis."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

from petune.doctor.diagnosis import Diagnosis
from petune.doctor.finding import KINDS, Finding, Severity
from petune.errors import AdapterFileError, PetuneError
from petune.storage import container, strict_json

T = TypeVar("T")
_NAMED = re.compile(r"(?<!\w)'([^']+)'|\b(\w+)=")
"""What a message quotes, or `field=value`; an apostrophe is no quote."""
_ORDER = (
    "name", "method", "trained_as", "rank", "alpha", "length", "targets", "sites", "task", "labels", "backbone",
    "metrics", "seed", "license", "weights", "tensors", "dtypes", "bytes", "schema",
)  # fmt: skip
"""Facts in the order in which people ask for them; others follow, the versions last."""


class Chart:
    """Facts and findings of one folder, as they come."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.facts: dict[str, Any] = {}
        self.findings: list[Finding] = []
        self.inside: list[Diagnosis] = []

    @property
    def sick(self) -> bool:
        """Whether an error was found."""
        return any(one.severity == "error" for one in self.findings)

    def add(self, severity: Severity, kind: str, file: str, cause: str, key: str = "", fix: str = "") -> None:
        """Notes one finding."""
        assert kind in KINDS, kind
        self.findings.append(Finding(severity, kind, file, cause, key, fix))

    def error(self, kind: str, file: str, cause: str, key: str = "", fix: str = "") -> None:
        """Notes one error."""
        self.add("error", kind, file, cause, key, fix)

    def errors(self, kind: str, file: str, keys: Collection[str], cause: str, fix: str = "") -> None:
        """Notes one error that many keys share; the first of them is named."""
        if keys:
            first, *others = sorted(keys)
            more = f"{len(others)} more" if len(others) > 1 else repr(others[0]) if others else ""
            self.error(kind, file, f"{cause} The same goes for {more}." if more else cause, first, fix)

    def refusal(self, kind: str, file: str, error: PetuneError, known: Collection[str] | None = None) -> None:
        """Notes what a check of petune's own refuses, in its words.

        Args:
            known: names or keys; the first of them that the words quote is the finding's key. None: the first quoted.
        """
        named = [quoted or field for quoted, field in _NAMED.findall(error.what)]
        key = next((word for word in named if known is None or word in known), "")
        cause = " ".join(part for part in (error.what, error.expected) if part)
        # The finding has its file already.
        cause = cause.removeprefix(f"{self.folder / file}: ").replace(f"{self.folder}{os.sep}", "")
        self.error(kind, file, cause, key, error.fix)

    def attempt(self, kind: str, file: str, check: Callable[[], T], known: Collection[str] | None = None) -> T | None:
        """The answer of a check, or None when it refuses; the refusal is noted."""
        try:
            return check()
        except AdapterFileError as error:
            self.refusal(kind, file, error, known)
            return None

    def bytes_of(self, file: str) -> bytes | None:
        """A file's bytes; what keeps it from being read is noted."""
        tensors = file.endswith(".safetensors")
        limit = container.MAX_FILE_BYTES if tensors else container.MAX_HEADER_BYTES
        try:
            return container.read_bytes(self.folder / file, limit=limit, tensors=tensors)
        except container.UnreadableError as error:
            self.refusal("unreadable", file, error)
        except AdapterFileError as error:
            self.refusal("broken-container", file, error)
        except OSError as error:  # a folder of that name
            self.error("unreadable", file, f"It cannot be read ({error.strerror}).", fix="Put the file in its place.")
        return None

    def json_of(self, file: str) -> dict[str, Any] | None:
        """The JSON object in a file; what is wrong with it is noted."""
        data = self.bytes_of(file)
        if data is None:
            return None
        return self.attempt("broken-json", file, lambda: strict_json.loads(data, source=str(self.folder / file)))

    def diagnosis(self, kind: str) -> Diagnosis:
        """The chart as a diagnosis."""
        others = sorted(set(self.facts) - set(_ORDER), key=lambda name: (name == "versions", name))
        facts = {name: self.facts[name] for name in (*_ORDER, *others) if name in self.facts}
        return Diagnosis(self.folder, kind, facts, tuple(self.findings), tuple(self.inside))
