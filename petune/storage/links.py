"""What lies in an adapter folder must lie in it: no links out of it, no pipes and devices.

The cache of the Hugging Face hub keeps each file once and links to it:

    models--owner--name/
    ├── blobs/3b9f...
    └── snapshots/<revision>/adapter_model.safetensors -> ../../blobs/3b9f...

Such links stay within one repository of the cache, so they are followed; every other link out of the folder is refused,
whoever made it: a downloaded archive could show its reader any file of this machine.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from petune.errors import AdapterFileError


def check(folder: Path) -> None:
    """Passes when every entry of a folder is a file or folder of its own.

    Raises:
        AdapterFileError: a link that leads out of the folder or nowhere, a pipe, a socket or a device.
    """
    home = folder.resolve()
    with os.scandir(folder) as entries:
        for entry in entries:
            path = Path(entry.path)
            if entry.is_symlink():
                _check_link(path, home, _blobs(folder))
            try:
                mode = path.stat().st_mode
            except FileNotFoundError:  # a writer's temporary file, that is gone again
                continue
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise AdapterFileError(
                    f"{path} is no regular file.",
                    expected="An adapter folder holds plain files.",
                    fix=f"Remove {path.name}, or copy or download the folder again.",
                )


def check_inside(path: Path, root: Path) -> None:
    """Passes when a folder of a store lies in the store, also where it is a link.

    Raises:
        AdapterFileError: it is a link that leads out.
    """
    if path.is_symlink() and not (target := path.resolve()).is_relative_to(root.resolve()):
        raise AdapterFileError(
            f"{path} is a link to {target}, which is outside of the store.",
            expected="A folder in the store's own directory.",
            fix="Move or copy the folder there, or pass a mapping of names to folders.",
        )


def _check_link(path: Path, home: Path, blobs: Path | None) -> None:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # nowhere, or in a circle
        if not os.path.lexists(path):
            return  # a writer has put a file in its place
        raise AdapterFileError(
            f"{path} is a link to {os.readlink(path)!r}, which is not there.",
            expected="The file itself.",
            fix="Copy or download the folder again, with its files in place of links (cp -L).",
        ) from error
    if target.is_relative_to(home) or (blobs is not None and target.parent == blobs):
        return
    raise AdapterFileError(
        f"{path} is a link to {target}, which is outside of the folder.",
        expected="The file itself; only the hub's cache may link, to the blobs of the same repository.",
        fix="If you trust it, copy the file in its place (cp -L).",
    )


def _blobs(folder: Path) -> Path | None:
    """The blobs beside the snapshot of the hub's cache that a folder is or lies in; None: it is in no such cache."""
    for place in (folder.absolute(), *folder.absolute().parents):
        blobs = place.parent.parent / "blobs"
        if place.parent.name == "snapshots" and blobs.is_dir() and not blobs.is_symlink():
            return blobs.resolve()
    return None
