"""`state.json` of a checkpoint: the state of a run, size and digest of its tensors, and a seal over all that."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from petune.errors import AdapterFileError, CheckpointError
from petune.storage import container

SCHEMA = 1
TENSORS, STATE = "state.safetensors", "state.json"
MAX_STATE_BYTES = 2**30
"""Of what is read besides tensors: the history of millions of steps."""


class OtherSchemaError(CheckpointError):
    """A checkpoint that is whole, but of another petune: no reason to take an older one."""


def sealed(step: int, state: Mapping[str, Any], content: bytes) -> bytes:
    """`state.json`: the state as text, so that its digest does not depend on how JSON is laid out."""
    text = json.dumps(state)
    header = {"schema": SCHEMA, "step": step, "bytes": len(content), "sha256": digest(content)}
    seal = digest((json.dumps(header) + text).encode())
    return json.dumps({"header": header, "seal": seal, "state": json.loads(text)}).encode()


def opened(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and state of `state.json`, verified.

    Raises:
        OtherSchemaError: whole, and of another petune.
        CheckpointError: damaged.
    """
    try:
        outer = json.loads(bytes_of(path))
        header, state, seal = outer["header"], outer["state"], outer["seal"]
        schema, step, size = header["schema"], header["step"], header["bytes"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged(path, f"it does not parse ({type(error).__name__})") from error
    whole = digest((json.dumps(header) + json.dumps(state)).encode()) == seal
    if schema != SCHEMA:
        raise (OtherSchemaError if whole else CheckpointError)(
            f"The checkpoint {path.parent} has schema {schema!r}.",
            expected=f"This petune reads schema {SCHEMA}.",
            fix="Resume with the petune that wrote it.",
        )
    if not whole:
        raise damaged(path, "its content is not what was written")
    if not isinstance(state, dict) or any(type(number) is not int or number < 0 for number in (step, size)):
        raise damaged(path, "its step, size or state is none")
    return header, state


def bytes_of(path: Path, limit: int = MAX_STATE_BYTES) -> bytes:
    """A file of at most so many bytes; what cannot be read, a pipe and a device among it, is damaged."""
    try:
        return container.read_bytes(path, limit=limit)
    except AdapterFileError as error:
        raise damaged(path, f"it {error.what.removeprefix(str(path)).strip(' .')}") from error
    except MemoryError as error:
        raise damaged(path, "it does not fit into the memory") from error


def damaged(path: Path, why: str) -> CheckpointError:
    """The error for a file of a checkpoint."""
    return CheckpointError(
        f"The checkpoint file {path} cannot be used: {why}.",
        expected=f"A whole checkpoint holds {TENSORS} and {STATE} as petune wrote them.",
        fix="Resume from an earlier checkpoint of the run, or start afresh.",
    )


def digest(content: bytes) -> str:
    """sha256, as text."""
    return hashlib.sha256(content).hexdigest()
