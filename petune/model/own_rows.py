"""Where the rows of an adapter's own act: at the backbone's table of pieces, which stays as it is.

A task's markers are an overlay there, beside the head parts inside the backbone: they learn, are saved and are routed
with them. The path `own_rows` is no module's; the tap sits on the table itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from torch import Tensor, nn

from petune.errors import BackboneError, MergeError
from petune.methods._token_rows import TokenRows, around_the_mean
from petune.methods.base import Site
from petune.model.families import FAMILIES
from petune.tasks.base import MARKERS

if TYPE_CHECKING:
    from petune.model.adapter import Adapter
    from petune.model.routing import Frame

OWN_ROWS = "own_rows"
"""The path at which a task's rows act."""
SOFT_PROMPT = "soft_prompt"
"""The path at which a method's do."""


def table_of(base: nn.Module, model_type: str) -> nn.Embedding:
    """The module that looks up the pieces that a backbone reads.

    Raises:
        BackboneError: a backbone that reads no pieces.
    """
    family = FAMILIES.get(model_type)
    try:
        if base.main_input_name != "input_ids":  # a decoder's table alone is no help
            raise AttributeError
        if family is not None:
            return cast(nn.Embedding, base.get_submodule(family.embeddings))
        found = base.get_input_embeddings()  # type: ignore[operator]
        if isinstance(found, nn.Embedding):
            return found
    except (AttributeError, NotImplementedError):
        pass
    raise BackboneError(
        f"A {model_type!r} has no table of pieces that petune knows.",
        expected="Rows of an adapter's own stand beside those of the backbone's pieces.",
        fix="Choose a backbone that reads texts.",
    )


def fresh_rows(base: nn.Module, model_type: str, count: int) -> TokenRows:
    """A task's rows before they have learnt anything."""
    return TokenRows(around_the_mean(table_of(base, model_type).weight, count), MARKERS)


def rows_site(path: str, base: nn.Module, model_type: str) -> Site:
    """The table as a site under a path of its own."""
    table = table_of(base, model_type)
    return Site(path, "rows", -1, table, table, "rows")


def hidden(frame: Frame, path: str, x: Tensor) -> Tensor:
    """The pieces of a call, without those that stand for rows of the adapters that act here; each in its own rows.

    A piece that stands for a row of nobody here stays, and the backbone's table refuses it.
    """
    for layer, rows in frame.layers(path):
        own = cast(TokenRows, layer)
        x = own.hidden(x) if rows is None else x.index_copy(0, rows, own.hidden(x.index_select(0, rows)))
    return x


def refuse_merge(adapter: Adapter) -> None:
    """Raises MergeError for an adapter that cannot become weights of the backbone."""
    adapter.body.refuse_merge()
    if OWN_ROWS in adapter.shell.overlays:
        raise MergeError(
            f"The adapter {adapter.name!r} has rows for pieces of its own, so it cannot be merged.",
            expected="The backbone is never resized, and its table of pieces has no room for them.",
            fix="Serve this adapter unmerged, with Tuner.load or AdaptedModel.",
        )
