"""Where adapters lie: name -> folder, looked up when a name is used, so that thousands cost nothing at first."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from petune.errors import ConfigError, RouteError
from petune.lookup import near
from petune.storage import links
from petune.storage.names import check_name
from petune.storage.whereabouts import ADAPTER

Places = str | Path | Iterable[str | Path] | Mapping[str, str | Path]
"""A directory of adapter folders, or adapter folders, or names with their folders."""


class Folders:
    """Adapter folders by name; nothing is read before a name is asked for.

    Args:
        places: a directory, whose sub-directories are adapter folders under their own names; or a list of adapter
            folders, each under the last part of its path; or a mapping of names to folders.

    Raises:
        ConfigError: no such directory, two folders of one name, or a name that cannot be one.

    Examples:
        >>> Folders(["adapters/mood", "elsewhere/kind"]).names()
        ('kind', 'mood')
    """

    def __init__(self, places: Places) -> None:
        self._root: Path | None = None
        self._listed: dict[str, Path] = {}
        if isinstance(places, str | Path):
            self._root = _directory(Path(places))
        elif isinstance(places, Mapping):
            self._listed = {check_name(name): Path(folder) for name, folder in places.items()}
        else:
            for folder in map(Path, places):
                # Two spellings of one folder are one; an absolute path also gives "." a name.
                path = Path(os.path.abspath(folder))
                if self._listed.setdefault(check_name(path.name), path) != path:
                    raise ConfigError(
                        f"Two folders are called {path.name!r}: {self._listed[path.name]} and {path}.",
                        expected="A list names each adapter by the last part of its folder.",
                        fix="Pass a mapping of names to folders.",
                    )

    def names(self) -> tuple[str, ...]:
        """Every name there is now, sorted; a directory is looked through, its folders are not."""
        if self._root is None:
            return tuple(sorted(self._listed))
        try:
            with os.scandir(self._root) as entries:
                return tuple(sorted(entry.name for entry in entries if _is_name(entry.name) and entry.is_dir()))
        except OSError as error:
            raise RouteError(f"{self._root} could not be looked through ({error.strerror}).") from error

    def find(self, name: str) -> Path:
        """The folder of a name, as the disk is now.

        Raises:
            RouteError: no such adapter; the near names are suggested.
            AdapterFileError: a link that leads out of the directory. It is listed, so that its use tells why.
        """
        if name in self._listed:
            return self._listed[name]
        # A name may come from anywhere: one with a path in it must not lead out of the directory.
        if self._root is not None and isinstance(name, str) and _is_name(name) and (self._root / name).is_dir():
            links.check_inside(self._root / name, self._root)
            return self._root / name
        raise RouteError(
            f"There is no adapter {name!r} in the store.",
            expected="Adapters are called by the names of their folders.",
            fix=near(name, self.names()),
        )


def _directory(root: Path) -> Path:
    """A directory that can hold adapter folders; its path stays right when the process changes directory."""
    if not root.is_dir():
        raise ConfigError(f"There is no directory {root}.", expected="A directory whose sub-directories are adapters.")
    if (root / ADAPTER).exists():
        raise ConfigError(
            f"{root} is an adapter folder itself.",
            expected="A directory whose sub-directories are adapters.",
            fix="Pass a list of adapter folders, or the directory around it.",
        )
    return Path(os.path.abspath(root))


def _is_name(name: str) -> bool:
    """Whether a sub-directory of this name is an adapter's; hidden ones are somebody's book-keeping."""
    if name.startswith("."):
        return False
    try:
        return bool(check_name(name))
    except ConfigError:
        return False
