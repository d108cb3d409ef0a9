"""The help of a command: plain text under headings, in which no name of an option is ever cut short."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

WIDEST = 100
"""Columns of a help text on a wider terminal; lines that are longer are hard to read."""
NAMES = 30
"""Columns of the names; the help of a longer name begins on the next line."""


class Command(TyperCommand):
    """Lists the options under the headings that they were given."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes a section for each heading, in the order in which they come."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
                sections.setdefault(getattr(parameter, "rich_help_panel", None) or usual, []).append(record)
        formatter.width = min(max(formatter.width, 40), WIDEST)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records, col_max=NAMES)
