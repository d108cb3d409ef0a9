"""Whose the output folders are while runs last, and which checkpoint all processes go on from.

The main process alone writes, so it alone holds the folders and looks for a checkpoint; the others are told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from petune.errors import AdapterFileError, CheckpointError, PetuneError
from petune.storage import checkpoint as storage
from petune.storage.atomic import make_folder, only_writer
from petune.storage.checkpoint import Checkpoint
from petune.training.trainee import Trainee


@contextmanager
def holding(trainees: Sequence[Trainee], accelerator: Accelerator) -> Iterator[None]:
    """Holds every `output_dir` against other writers for the length of a fit.

    Raises:
        CheckpointError: another run holds one, or it cannot be made.
    """
    folders = [Path(each.config.output_dir) for each in trainees if each.config.output_dir is not None]
    with ExitStack() as stack:
        said_by_main(accelerator, lambda: _hold(folders, stack))
        yield


def _hold(folders: Sequence[Path], stack: ExitStack) -> None:
    for folder in folders:
        try:
            make_folder(folder)
        except AdapterFileError as error:
            raise CheckpointError(error.what, expected="The run needs a folder of its own.", fix=error.fix) from error
        stack.enter_context(only_writer(folder, CheckpointError))


def common(accelerator: Accelerator, find: Callable[[], Checkpoint | None], place: Path) -> Checkpoint | None:
    """The checkpoint that the main process finds, read by every process.

    Args:
        place: where this process sees it: the checkpoint, or the folder that holds it. Each machine may have its own.

    Raises:
        CheckpointError, ConfigError: those of `find`, on every process; or a machine does not see it.
    """
    mine: list[Checkpoint | None] = []

    def look() -> str | None:
        mine.append(find())
        return mine[0].path.name if mine[0] else None

    name = said_by_main(accelerator, look)
    if mine or name is None:
        return mine[0] if mine else None
    return storage.read(place if place.name == name else place / name)


def said_by_main(accelerator: Accelerator, work: Callable[[], Any]) -> Any:
    """What some work gives on the main process, where alone it is done; its error is raised on all of them."""
    if accelerator.num_processes == 1:
        return work()
    said: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            said[0] = work()
        except PetuneError as error:
            said[1] = error
    result, refusal = broadcast_object_list(said)
    if refusal is not None:
        raise refusal
    return result
