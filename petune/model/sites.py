"""From a method's wishes (roles, layers, own module names) to the sites in one backbone."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from petune.errors import BackboneError, ConfigError
from petune.lookup import unknown
from petune.methods.base import Method, Site, widths
from petune.model.families import FAMILIES, Family
from petune.model.own_rows import SOFT_PROMPT, rows_site


def find_sites(base: nn.Module, model_type: str, method: Method) -> list[Site]:
    """The sites of a method in a backbone, in the order of the data flow.

    Args:
        base: the base model of a shell; paths are relative to it.
        model_type: transformers' name of the architecture.

    Raises:
        BackboneError: the architecture is not in the table and no modules were named, or has no such site.
        UnknownNameError: a module or role name that matches nothing; the near ones are suggested.
        ConfigError: `top` or `layers` that cannot be meant here.
    """
    sites = _wanted(base, model_type, method)
    paths = [site.path for site in sites]
    for path in method.named_sites():
        if path not in paths:
            raise unknown("site", path, paths)
    return sites


def _wanted(base: nn.Module, model_type: str, method: Method) -> list[Site]:
    """The sites by the method's own module names, or by its roles in the architecture table."""
    family = FAMILIES.get(model_type)
    if method.modules:
        return _named(base, family, method)
    if not method.roles():
        return []
    if method.roles() == ("embeddings",):
        return [rows_site(SOFT_PROMPT, base, model_type)]
    if family is None:
        raise BackboneError(
            f"The architecture {model_type!r} is not in petune's table.",
            expected="Then the modules must be named.",
            fix=f"Pass modules=(...) to the method; the linear modules here end in {', '.join(_endings(base))}.",
        )
    blocks = block_list(base, family)
    chosen = _chosen(method, family, len(blocks), model_type)
    if "attention" in method.roles() and not family.attention:
        raise BackboneError(
            f"A {type(method).__name__.lower()} cannot act on {model_type!r}.",
            expected="A prefix needs an architecture whose attention asks transformers' registry for its function.",
            fix="Use method='lora', 'adalora' or 'bottleneck' here, or another backbone.",
        )
    sites = [
        site for index in chosen for role in method.roles() for site in _in_block(family, role, index, *blocks[index])
    ]
    # A fused map plays several roles; it is one site all the same.
    return list({site.path: site for site in sites}.values())


def block_list(base: nn.Module, family: Family) -> list[tuple[str, nn.Module]]:
    """(path, block) of every block, in order; lists that this backbone lacks are passed over."""
    names = dict(base.named_modules())
    return [
        (f"{path}.{index}", block)
        for path in family.blocks
        if path in names
        for index, block in enumerate(names[path].children())
    ]


def _chosen(method: Method, family: Family, count: int, model_type: str) -> list[int]:
    """The indices of the blocks that the method wants."""
    if family.shared_blocks and (method.top is not None or method.layers != "all"):
        raise ConfigError(
            f"top and layers cannot be meant for {model_type!r}: all its layers share one block.",
            fix="Drop top and layers.",
        )
    if method.top is not None:
        if method.top > count:
            raise ConfigError(f"top={method.top} is more than the {count} blocks of this backbone.")
        return list(range(count - method.top, count))
    if method.layers == "all":
        return list(range(count))
    bad = [index for index in method.layers if not 0 <= index < count]
    if bad:
        raise ConfigError(
            f"layers={method.layers!r}: there is no block {bad[0]}.", expected=f"Blocks are 0 to {count - 1}."
        )
    return sorted(set(method.layers))


def _in_block(family: Family, role: str, index: int, path: str, block: nn.Module) -> Iterator[Site]:
    """The sites that play a role in one block."""
    inside = dict(block.named_modules())
    if role == "attention":
        for name in (name for name in family.attention if name in inside):
            yield attention_site(f"{path}.{name}", inside[name], index, _key_width(family, name, inside))
    elif role == "ffn":
        # Beside the whole feed-forward: x enters its first map, y leaves its last. No module has this path, so such
        # a layer never meets a LoRA at the same place.
        first = next((inside[name] for name in family.roles["ffn_input"] if name in inside), None)
        last = next((name for name in family.roles["ffn_output"] if name in inside), None)
        if first is not None and last is not None:
            yield Site(f"{path}.feed_forward", role, index, first, inside[last])
    elif role in family.roles:
        for name in (name for name in family.roles[role] if name in inside):
            yield Site(f"{path}.{name}", role, index, inside[name], inside[name])
    else:
        raise unknown("role", role, [*family.roles, "ffn", "attention"])


def _key_width(family: Family, attention: str, inside: dict[str, nn.Module]) -> int:
    """H times K of an attention module, read off its key projection."""
    keys = (name for name in family.roles["key"] if name in inside and name.startswith(attention + "."))
    width = widths(inside[next(keys)])[1]
    return width // 3 if family.fused else width


def attention_site(path: str, module: nn.Module, block: int, key_width: int) -> Site:
    """An attention site with its number of key heads and their size.

    Raises:
        BackboneError: when the module does not say how wide its heads are.
    """
    sizes = (getattr(module, name, None) for name in ("head_dim", "attention_head_size", "key_value_proj_dim"))
    size = next((int(found) for found in sizes if found), 0)
    if not size:
        raise BackboneError(f"The attention {path!r} does not say how wide its heads are, so it cannot take a prefix.")
    return Site(path, "attention", block, module, module, "attention", key_width // size, size)


def _named(base: nn.Module, family: Family | None, method: Method) -> list[Site]:
    """Sites by the user's own names: full paths or endings. Every name must match something."""
    inside = {path: module for path, module in base.named_modules() if path}
    index_of = {path: index for index, (path, _) in enumerate(block_list(base, family))} if family else {}
    attention = method.roles() == ("attention",)
    if attention:
        raise ConfigError(
            "modules=... cannot be used with a prefix.", fix="Use top=... or layers=..., or drop modules."
        )
    sites: dict[str, Site] = {}
    for name in method.modules:
        hits = [path for path in inside if path == name or path.endswith("." + name)]
        linear = [path for path in hits if hasattr(inside[path], "in_features") or hasattr(inside[path], "nx")]
        if not linear:
            raise unknown("linear module", name, _endings(base) if "." not in name else _linear(base))
        for path in linear:
            block = next((i for prefix, i in index_of.items() if path.startswith(prefix + ".")), -1)
            sites[path] = Site(path, "module", block, inside[path], inside[path])
    if method.top is not None or method.layers != "all":
        if not index_of or family is None:
            raise ConfigError(
                "top and layers need an architecture of the table.", fix="Name the full module paths instead."
            )
        keep = set(_chosen(method, family, len(index_of), "this backbone"))
        sites = {path: site for path, site in sites.items() if site.block in keep}
        if not sites:
            raise ConfigError(f"No module of {method.modules!r} lies in the chosen blocks.", fix="Choose other blocks.")
    order = list(inside)
    return sorted(sites.values(), key=lambda site: order.index(site.path))


def _linear(base: nn.Module) -> list[str]:
    return [path for path, m in base.named_modules() if hasattr(m, "in_features") or hasattr(m, "nx")]


def _endings(base: nn.Module) -> list[str]:
    """The last parts of the names of the linear modules, each once."""
    return list(dict.fromkeys(path.rsplit(".", 1)[-1] for path in _linear(base)))
