"""Rows as aligned text and as HTML; the reports print with these."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any


def cell(value: Any) -> str:
    """How a value is shown: floats with four significant digits, counts with separators.

    Examples:
        >>> cell(0.912345), cell(12000), cell(0.00002), cell(None), cell("x")
        ('0.9123', '12,000', '2e-05', '', 'x')
    """
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if value == 0 or 1e-4 <= abs(value) < 10:
        return f"{value:.4f}"
    return f"{value:,.1f}" if 10 <= abs(value) < 1e7 else f"{value:.4g}"


def text_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Aligned columns: the first to the left, the others to the right.

    Examples:
        >>> print(text_table(["label", "f1"], [["no", 0.5], ["maybe", 1.0]]))
        label      f1
        no     0.5000
        maybe  1.0000
    """
    lines = [list(header), *([cell(value) for value in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            word.rjust(width) if column else word.ljust(width)
            for column, (word, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def html_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """The same as an HTML table, escaped.

    Examples:
        >>> html_table(["a"], [["<b>"]])
        '<table><tr><th>a</th></tr><tr><td>&lt;b&gt;</td></tr></table>'
    """
    head = "".join(f"<th>{escape(word)}</th>" for word in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell(value))}</td>" for value in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"
