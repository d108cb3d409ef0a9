"""A good adapter folder in memory, the ways to damage it, and the ways to make every digest right again afterwards.

It holds a LoRA with a trained head on a tiny BERT, as `Tuner.save` writes it. `by_peft` is the same adapter as peft
would have written it: without manifest and digests.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from petune import TrainConfig, Tuner
from petune.methods.lora import LoRA
from petune.storage import container
from petune.storage.adapter_file import ADAPTER, EXPORT, PEFT_CONFIG
from tests import tiny

Files = dict[str, bytes]
Make = Callable[[Path], object]
"""Writes a damaged folder at a path where nothing is yet."""
SITE = "encoder.layer.0.attention.self.query"
A = f"base_model.model.bert.{SITE}.lora_A.weight"
B = f"base_model.model.bert.{SITE}.lora_B.weight"
HEAD, BIAS = "base_model.model.classifier.weight", "base_model.model.classifier.bias"
UNSEALED = r"sha256 differs|has no digest|lacks the tensor|holds the tensor|no digest for"
"""What a tensor that is not the one written is answered with, as long as nobody made the digests right."""


class Form(NamedTuple):
    """One way in which a kind of damage is tried.

    Args:
        name: `damaged`, `sealed` (its digests were made right), or `by peft` (there are none).
        make: writes the folder.
        words: what the error must say: the key or field, and the cause.
    """

    name: str
    make: Make
    words: str


class Kind(NamedTuple):
    """One kind of bad adapter folder.

    Args:
        unsealed: why there is no `sealed` form; empty when there is one.
        path: what is opened, beneath the folder that the forms write.
    """

    name: str
    forms: tuple[Form, ...]
    unsealed: str = ""
    path: str = ""


@cache
def tuner() -> Tuner:
    """What wrote the good folder."""
    made = Tuner(tiny.backbone("bert"), tokenizer=tiny.tokenizer("bert"), method=LoRA(rank=4, targets=("query",)))
    config = TrainConfig(epochs=2, learning_rate=0.02, batch_size=8, progress="off")
    return made.fit(tiny.rows(16, classes=3), config=config)


@cache
def _good() -> Files:
    with tempfile.TemporaryDirectory() as place:
        folder = tuner().save(Path(place) / "good")
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def good() -> Files:
    """The files of a good folder by petune."""
    return dict(_good())


def by_peft() -> Files:
    """The same adapter, as peft would have written it."""
    tensors, _ = container.unpack(_good()[ADAPTER], "the good one")
    return {ADAPTER: container.pack(tensors, {"format": "pt"}), PEFT_CONFIG: _good()[PEFT_CONFIG]}


def put(folder: Path, files: Files) -> None:
    """Writes files into a new folder."""
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def split(files: Files) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the manifest of a folder by petune."""
    tensors, metadata = container.unpack(files[ADAPTER], "the good one")
    return tensors, json.loads(metadata["petune"])


def header_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file, and the tensors' bytes."""
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def file_of(header: Any, payload: bytes) -> bytes:
    """A safetensors file of a header (JSON, or bytes as they are) and the tensors' bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + payload


def crowded(value: bytes) -> bytes:
    """The first 60,000 fields of a JSON object, and the first of them once more."""
    return b"{" + b",".join(b'"k%d":%s' % (i, value) for i in (*range(60_000), 0))


def confirmed(files: Files, manifest: dict[str, Any] | None = None) -> Files:
    """The files, with a `petune.json` that agrees with the adapter file and exports as they are now."""
    about = json.loads(files[EXPORT])
    listed = {name: digest and _sha256(files[name]) for name, digest in about["exports"].items() if name in files}
    kept = about if manifest is None else manifest
    about = {**kept, "adapter_sha256": _sha256(files[ADAPTER]), "exports": listed}
    return {**files, EXPORT: json.dumps(about).encode()}


def joined(tensors: dict[str, Tensor], manifest: dict[str, Any] | str, *, seal: bool) -> Files:
    """The good folder with other tensors or another manifest.

    Args:
        manifest: also as text, which may be no JSON.
        seal: make every digest right; else those of the good folder stay.
    """
    _, metadata = container.unpack(_good()[ADAPTER], "the good one")
    given = isinstance(manifest, dict)
    if seal and isinstance(manifest, dict) and isinstance(manifest.get("digests"), dict) and manifest["digests"]:
        manifest = {**manifest, "digests": {name: container.digest(tensor) for name, tensor in tensors.items()}}
    same = given and manifest == json.loads(metadata["petune"])
    text = metadata["petune"] if same else json.dumps(manifest) if given else str(manifest)
    digest = _sha256(text.encode("utf-8", "surrogatepass")) if seal else metadata["petune_sha256"]
    data = container.pack(tensors, {**metadata, "petune": text, "petune_sha256": digest})
    files = {**_good(), ADAPTER: data}
    return confirmed(files, manifest if isinstance(manifest, dict) else None) if seal else files


def bytes_kind(name: str, words: str, *edits: Callable[[bytes], bytes], unsealed: str = "") -> Kind:
    """Damage to the bytes of the adapter file; several edits are one kind at several places."""

    def form(edit: Callable[[bytes], bytes], seal: bool) -> Form:
        def make(folder: Path) -> None:
            files = {**_good(), ADAPTER: edit(_good()[ADAPTER])}
            put(folder, confirmed(files) if seal else files)

        return Form("sealed" if seal else "damaged", make, words)

    forms = [form(edit, seal) for edit in edits for seal in ((False,) if unsealed else (False, True))]
    return Kind(name, tuple(forms), unsealed)


def header_kind(name: str, words: str, edit: Callable[[dict[str, Any]], object]) -> Kind:
    """A header that lies about whole bytes."""

    def edited(data: bytes) -> bytes:
        header, payload = header_of(data)
        edit(header)
        return file_of(header, payload)

    return bytes_kind(name, words, edited)


def tensor_kind(
    name: str,
    words: str,
    edit: Callable[[dict[str, Tensor]], object],
    *,
    layout: Callable[[dict[str, Any]], object] | None = None,
    peft: str = "",
) -> Kind:
    """Other tensors under right names, or tensors under other names.

    Args:
        layout: changes the manifest along with the tensors in the sealed form.
        peft: what the same fault must be answered with in a folder by peft; empty: it is not tried there.
    """

    def make(folder: Path, seal: bool) -> None:
        tensors, manifest = split(_good())
        edit(tensors)
        if seal and layout is not None:
            layout(manifest)
        put(folder, joined(tensors, manifest, seal=seal))

    def make_by_peft(folder: Path) -> None:
        tensors, _ = split(_good())
        edit(tensors)
        put(folder, {**by_peft(), ADAPTER: container.pack(tensors, {"format": "pt"})})

    forms = [Form("damaged", lambda folder: make(folder, False), f"{words}|{UNSEALED}")]
    forms += [Form("sealed", lambda folder: make(folder, True), words)]
    forms += [Form("by peft", make_by_peft, peft)] if peft else []
    return Kind(name, tuple(forms))


def manifest_kind(name: str, words: str, edit: Callable[[dict[str, Any]], object]) -> Kind:
    """Another manifest; an edit that returns bytes gives its text."""

    def make(folder: Path, seal: bool) -> None:
        tensors, manifest = split(_good())
        text = edit(manifest)
        put(folder, joined(tensors, text.decode() if isinstance(text, bytes) else manifest, seal=seal))

    damaged = Form("damaged", lambda folder: make(folder, False), "The manifest in .*sha256 differs")
    return Kind(name, (damaged, Form("sealed", lambda folder: make(folder, True), words)))


def config_kind(name: str, words: str, edit: Callable[[dict[str, Any]], object]) -> Kind:
    """Another `adapter_config.json`: beside petune's file, where a digest covers it, and in a folder by peft.

    An edit that returns bytes gives the whole file.
    """

    def edited() -> bytes:
        config = json.loads(_good()[PEFT_CONFIG])
        data = edit(config)
        return data if isinstance(data, bytes) else json.dumps(config).encode()

    damaged = Form(
        "damaged", lambda folder: put(folder, {**_good(), PEFT_CONFIG: edited()}), f"{PEFT_CONFIG} .*differs from it"
    )
    return Kind(
        name, (damaged, Form("sealed", lambda folder: put(folder, {**by_peft(), PEFT_CONFIG: edited()}), words))
    )


def file_kind(name: str, words: str, make: Make, path: str = "") -> Kind:
    """A folder that is wrong as a whole, so that there is no digest to make right."""
    return Kind(name, (Form("damaged", make, words),), "what is wrong is no content that a digest covers", path)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
