"""The adapter folder: one self-describing `adapter_model.safetensors`, and exports beside it.

| file | for |
|---|---|
| `adapter_model.safetensors` | the adapter: tensors, and the manifest in its metadata; its rename is the commit |
| `petune.json` | people: the manifest again, and the digests of adapter and exports |
| `adapter_config.json` | peft and transformers, where they can compute the method |
| tokenizer files, `README.md`, `history.jsonl` | as their names say; the last two may be edited |

Reading believes the adapter file alone. An export made from another adapter file is stale (one notice); one that
claims this file but has other content is an error.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from petune.errors import AdapterFileError, PetuneError
from petune.storage import (
    adapterhub,
    adapterhub_reading,
    atomic,
    container,
    layout,
    links,
    manifest,
    migrations,
    peft_format,
    soundness,
    strict_json,
    whereabouts,
)
from petune.storage.card import card as default_card
from petune.storage.placing import about
from petune.storage.stored import Stored
from petune.storage.tokenizer_files import TOKENIZER_FILES, files_of

ADAPTER = "adapter_model.safetensors"
EXPORT = "petune.json"
PEFT_CONFIG = "adapter_config.json"
CARD = "README.md"
EDITABLE = (CARD, "history.jsonl")
"""Exports that people may change: their content is not checked."""
WRITTEN = frozenset({PEFT_CONFIG, *EDITABLE, *TOKENIZER_FILES})
"""Names of exports."""
_TRIES = 20


def write(
    folder: str | Path,
    stored: Stored,
    *,
    tokenizer: Any = None,
    history: list[dict[str, Any]] | None = None,
    card: str | None = None,
) -> Path:
    """Writes an adapter folder; the adapter in it is the old one or the new one, whole, at any moment.

    Args:
        folder: made if it is not there; other files in it stay, and so does a README.md that was there before.
        tokenizer: a transformers tokenizer, saved beside the adapter.
        history: one JSON object per line of `history.jsonl`; a figure that is not finite is null there.
        card: the text of `README.md`; None: the card of facts (`petune.storage.card`).

    Raises:
        AdapterFileError: non-finite tensors, values that JSON cannot hold, a disk that is full or read-only,
            another writer.
    """
    data, made = _packed(stored)
    sha256 = hashlib.sha256(data).hexdigest()
    exports = _exports(stored, tokenizer, history, default_card(stored) if card is None else card)
    folder = atomic.make_folder(folder)
    with atomic.only_writer(folder):
        atomic.sweep(folder)
        before = _listed(folder)
        if _is_anothers(folder, before):
            del exports[CARD]
        digests = {
            name: None if name in EDITABLE else hashlib.sha256(text).hexdigest() for name, text in exports.items()
        }
        about = {**made, "adapter_sha256": sha256, "exports": digests}
        # petune.json goes first: from then on the old adapter's exports are stale, which is no error, until the commit.
        files = {EXPORT: (strict_json.dumps(about, indent=1) + "\n").encode(), **exports, ADAPTER: data}
        atomic.write_files(folder, files)
        for name in before - set(files):  # what an earlier adapter of this folder had and this one has not
            with contextlib.suppress(OSError):  # the save has happened
                (folder / name).unlink()
    return folder


def read(folder: str | Path, *, config: Any = None, prefix: str | None = None) -> Stored:
    """Reads an adapter folder, petune's, peft's or AdapterHub's, and believes nothing that it has not checked.

    Args:
        folder: what `write` made, or peft's `save_pretrained`.
        config: for folders by peft: the backbone's configuration, see `peft_format.from_peft`.
        prefix: for folders by peft: the backbone's place in the shell.

    Returns:
        The adapter, its tensors in private memory; `notices` holds what is odd but harmless.

    Raises:
        AdapterFileError: with the file, the key or tensor, the cause and the fix.
    """
    folder = Path(folder)
    for _ in range(_TRIES - 1):
        before = _state(folder)
        try:
            with about(folder):
                return _read(folder, config, prefix)
        except PetuneError:
            if _state(folder) == before:
                raise  # else a writer was at work between two files: look again
    with about(folder):
        return _read(folder, config, prefix)


def _read(folder: Path, config: Any, prefix: str | None) -> Stored:
    if adapterhub_reading.lies_in(folder) and not (folder / ADAPTER).exists():
        links.check(folder)
        stored = adapterhub_reading.from_adapterhub(folder, config=config)
        odd = soundness.check(stored, str(folder / adapterhub.WEIGHTS))
        return dataclasses.replace(stored, notices=(*odd, *stored.notices))
    whereabouts.check(folder)
    links.check(folder)
    path = folder / ADAPTER
    data = container.read_bytes(path, limit=container.MAX_FILE_BYTES, tensors=True)
    tensors, metadata = container.unpack(data, str(path))
    if "petune" not in metadata:
        refuse_bereft(folder)
        stored = peft_format.from_peft(folder, config=config, prefix=prefix)
        odd = soundness.check(stored, str(path))
        return dataclasses.replace(stored, notices=(*odd, *stored.notices))
    source = f"The manifest in {path}"
    if metadata.get("petune_sha256") != _sha256(metadata["petune"]):
        raise AdapterFileError(
            f"{source} is not what was written (its sha256 differs).",
            expected="The file as it was written.",
            fix="Copy or download it again, or save the adapter again.",
        )
    said = strict_json.loads(metadata["petune"], source=source)
    made = migrations.migrated(said)
    manifest.validate(made, source=source)
    if made["method"]["name"] == "full":
        raise AdapterFileError(
            f"{source} is for the method 'full', which would replace the backbone's weights.",
            expected="An adapter never holds base weights; a full fine-tuning is a whole model.",
        )
    _check_digests(tensors, made["digests"], str(path))
    stored = layout.unflatten(tensors, made, str(path))
    odd = soundness.check(stored, str(path))
    notices, exports = _check_exports(folder, data, said)
    return Stored(stored.manifest, stored.layers, stored.head, (*odd, *notices), exports)


def _state(folder: Path) -> list[tuple[int, int, int] | None]:
    """Which files are there now; a rename puts another inode in place."""
    found: list[tuple[int, int, int] | None] = []
    for name in (ADAPTER, EXPORT, PEFT_CONFIG):
        try:
            status = (folder / name).stat()
            found.append((status.st_ino, status.st_mtime_ns, status.st_size))
        except (OSError, ValueError):  # not there, or no path at all
            found.append(None)
    return found


def _packed(stored: Stored) -> tuple[bytes, dict[str, Any]]:
    """The bytes of the adapter file and the manifest inside it."""
    soundness.check(stored, "The adapter to save")
    tensors, places = layout.flatten(stored, peft_format.derived_tensors(stored), peft_format.head_prefix(stored))
    digests = {name: container.digest(tensor) for name, tensor in tensors.items()}
    made = {**stored.manifest, "digests": digests, "layout": places}
    made["untrained"] = bool(made["untrained"]) or soundness.untrained(stored)
    manifest.validate(made, source="The manifest to save")
    text = strict_json.dumps(made)
    return container.pack(tensors, {"format": "pt", "petune": text, "petune_sha256": _sha256(text)}), made


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _exports(stored: Stored, tokenizer: Any, history: list[dict[str, Any]] | None, card: str) -> dict[str, bytes]:
    """File name -> bytes of everything beside the adapter file, `petune.json` left out."""
    files = {} if tokenizer is None else files_of(tokenizer)
    config = peft_format.adapter_config(stored)
    if config is not None:
        files[PEFT_CONFIG] = (strict_json.dumps(config, indent=2) + "\n").encode()
    if history is not None:
        rows = enumerate(map(strict_json.nulled, history))
        lines = [strict_json.dumps(row, source=f"history row {i}") + "\n" for i, row in rows]
        files["history.jsonl"] = "".join(lines).encode()
    files[CARD] = card.encode()
    return files


def _listed(folder: Path) -> set[str]:
    """The exports that the last write of this folder lists; none when that cannot be read.

    The list is a file's word, and what it names is deleted: names that petune does not write are not believed.
    """
    try:
        listed = strict_json.loads(container.read_bytes(folder / EXPORT), source=EXPORT).get("exports")
    except AdapterFileError:
        return set()
    return {name for name in listed if name in WRITTEN} if isinstance(listed, dict) else set()


def _is_anothers(folder: Path, listed: Collection[str]) -> bool:
    """Whether the README of a folder was there before any adapter: then it stays, and no card is written."""
    by_peft = os.path.exists(folder / ADAPTER) and not os.path.exists(folder / EXPORT)
    return CARD not in listed and os.path.exists(folder / CARD) and not by_peft


def _check_digests(tensors: Mapping[str, Any], digests: Mapping[str, Any], source: str) -> None:
    for name, tensor in tensors.items():
        if name in digests and container.digest(tensor) != digests[name]:
            raise AdapterFileError(
                f"{source}: the tensor {name!r} is not what was written (its sha256 differs).",
                expected=f"sha256 {digests[name]}.",
                fix="Copy or download the file again, or save the adapter again.",
            )
    odd = set(tensors) ^ set(digests)
    if odd:
        name = min(odd)
        what = "the manifest has no digest for" if name in tensors else "the file lacks"
        raise AdapterFileError(f"{source}: {what} the tensor {name!r}.", fix="Save the adapter again.")


def _check_exports(folder: Path, data: bytes, made: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
    """Notices about stale or missing exports, and the digests of those that are as written.

    Raises:
        AdapterFileError: an export claims this file and says something else.
    """
    if not (folder / EXPORT).exists():
        return [f"{folder / EXPORT} is missing; the next save writes it again."], {}
    about = strict_json.loads(container.read_bytes(folder / EXPORT), source=str(folder / EXPORT))
    sha256, listed = about.pop("adapter_sha256", None), about.pop("exports", None)
    if sha256 != hashlib.sha256(data).hexdigest():
        return [f"The files beside {folder / ADAPTER} were made from another one; the next save writes them again."], {}
    if about != made or not isinstance(listed, dict):
        key = next((key for key in {**made, **about} if about.get(key) != made.get(key)), "exports")
        raise _disagrees(folder / EXPORT, f"in {key!r}")
    missing, sound = [], {}
    for name, digest in sorted(listed.items()):
        path = folder / name
        if path.name != name:
            raise AdapterFileError(f"{folder / EXPORT} lists {name!r}, which is outside of the folder.")
        if not path.exists():
            missing.append(name)
        elif name in EDITABLE and digest is None:
            continue
        elif hashlib.sha256(container.read_bytes(path)).hexdigest() != digest:
            raise _disagrees(path, "in its content")
        else:
            sound[name] = digest
    if PEFT_CONFIG not in listed and (folder / PEFT_CONFIG).exists():
        missing.append(f"{PEFT_CONFIG} (the one there belongs to another adapter)")
    lacks = [f"{folder} lacks {', '.join(missing)}; the next save writes what belongs there."] if missing else []
    return lacks, sound


def refuse_bereft(folder: Path) -> None:
    """Refuses an adapter file without a manifest among exports of petune's own: peft did not write this folder.

    Where peft has saved into a folder of petune's, its `adapter_config.json` is another one than is listed.
    """
    about = folder / EXPORT
    if not about.is_file():
        return
    listed = strict_json.loads(container.read_bytes(about), source=str(about)).get("exports")
    config = folder / PEFT_CONFIG
    digest = hashlib.sha256(container.read_bytes(config)).hexdigest() if config.is_file() else None
    if not isinstance(listed, dict) or listed.get(PEFT_CONFIG) == digest:
        raise AdapterFileError(
            f"{folder / ADAPTER} has no manifest in its metadata, though {EXPORT} beside it says that petune wrote it.",
            expected="The key 'petune' in the metadata.",
            fix=f"Copy or download {ADAPTER} again, or delete {EXPORT} to read the folder as one by peft.",
        )


def _disagrees(path: Path, where: str) -> AdapterFileError:
    return AdapterFileError(
        f"{path} says it was made from {ADAPTER} beside it, but differs from it {where}.",
        expected="The file as it was written: the adapter file decides, the others are copies for people and peft.",
        fix=f"Delete {path.name} (and save the adapter again to get it back), or bring back the original.",
    )


__all__ = ["ADAPTER", "Stored", "read", "write"]
