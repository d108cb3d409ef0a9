"""A report read back: its sections, its text and its tags."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "link", "br", "path", "use", "line", "rect"}


class Page(HTMLParser):
    """A page: every tag is closed where it must be, text by section, and all attributes."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.size = path.stat().st_size
        self.open: list[str] = []
        self.sections: dict[str, str] = {}
        self.tags: set[str] = set()
        self.links: list[str] = []
        self._section = ""
        self.source = path.read_text("utf-8")
        self.feed(self.source)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        known = dict(attributes)
        self.tags.add(tag)
        self.links += [value or "" for name, value in attributes if name in ("src", "href")]
        if tag == "section":
            self._section = known["id"] or ""
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open and self.open[-1] == tag, (tag, self.open)
        self.open.pop()
        if tag == "section":
            self._section = ""

    def handle_data(self, data: str) -> None:
        words = " ".join(data.split())
        self.sections[self._section] = f"{self.sections.get(self._section, '')} {words}".strip()

    @property
    def names(self) -> set[str]:
        """The sections that are there."""
        return self.sections.keys() - {""}
