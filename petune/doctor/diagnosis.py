"""What was found in a folder, for people and as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from petune.doctor.finding import Finding, Severity

WIDTH = 80
"""Columns of the text for people."""


@dataclass(frozen=True)
class Diagnosis:
    """What a folder is, and what is wrong with it.

    Args:
        folder: the folder as it was given.
        kind: what it is, in words: `"petune adapter"`, `"peft adapter"`, `"checkpoint"`, `"run"`, `"store"` ...
        facts: what it says of itself: method, rank, task, labels, backbone, sizes, versions, licence ...
        findings: what is wrong or odd in the folder itself.
        inside: the diagnoses of the adapters of a store, the checkpoints of a run.
    """

    folder: Path
    kind: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    inside: tuple[Diagnosis, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing in it is an error."""
        return self.count("error") == 0

    def count(self, severity: Severity) -> int:
        """How many findings there are of a severity, those inside included."""
        return sum(one.severity == severity for one in self.all_findings())

    def all_findings(self) -> Iterator[Finding]:
        """Every finding, those inside included."""
        yield from self.findings
        for one in self.inside:
            yield from one.all_findings()

    def to_dict(self) -> dict[str, Any]:
        """The diagnosis as JSON."""
        return {
            "folder": str(self.folder),
            "kind": self.kind,
            "ok": self.ok,
            "facts": dict(self.facts),
            "findings": [one.to_dict() for one in self.findings],
            "inside": [one.to_dict() for one in self.inside],
        }

    def __str__(self) -> str:
        """Lines of at most 80 columns, but for long paths and words; no character in them steers a terminal."""
        lines = [plain(f"{self.folder}: {self.kind}, {self._verdict()}")]
        width = max(map(len, self.facts), default=0)
        for name, value in self.facts.items():
            if value not in (None, "", [], {}) and (name, value) != ("bytes", 0):
                lines += _wrapped(f"{name:<{width}}  {_words(value)}", "  ", " " * (width + 4))
        for one in sorted(self.findings, key=lambda one: ("error", "warning", "note").index(one.severity)):
            place = " ".join(part for part in (one.file, one.key and f"[{one.key}]") if part) or "the folder"
            lines += _wrapped(f"{one.severity}: {place} ({one.kind})", "  ", "      ")
            lines += _wrapped(one.cause, "      ", "      ")
            lines += _wrapped(f"Fix: {one.fix}", "      ", "      ") if one.fix else []
        for inner in self.inside:
            text = str(inner) if list(inner.all_findings()) else str(Diagnosis(inner.folder, inner.kind))
            lines += [f"  {line}" for line in text.splitlines()]
        return "\n".join(lines)

    def _verdict(self) -> str:
        counts = [(self.count(severity), severity) for severity in ("error", "warning", "note")]
        return ", ".join(f"{n} {severity}{'s' * (n > 1)}" for n, severity in counts if n) or "fine"


def plain(text: str) -> str:
    r"""The text without anything that could steer a terminal: names in a folder come from anywhere.

    Examples:
        >>> print(plain("a\x1b[2Jb"))
        a\x1b[2Jb
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def _words(value: Any) -> str:
    """A fact as words; a long list is cut."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(item)}" for key, item in value.items() if item not in (None, "", [], {}))
    if isinstance(value, list | tuple):
        more = f" and {len(value) - 8} more" if len(value) > 8 else ""
        return ", ".join(_words(item) for item in value[:8]) + more
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _wrapped(text: str, first: str, then: str) -> list[str]:
    return textwrap.wrap(
        plain(text),
        WIDTH - 2,  # what is inside is indented by two
        initial_indent=first,
        subsequent_indent=then,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
    )
