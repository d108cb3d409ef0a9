"""The child of `fit(processes=N)`, started as `python -m petune.training.ranks.launched FOLDER`.

It trains what the folder tells, and never outlives the process that launched it: the kernel ends it where there is
`prctl`, and everywhere a thread waits for the end of its standard input, which that process holds open.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from petune.training.ranks.parcel import Job

PR_SET_PDEATHSIG = 1


def stay_no_longer_than_the_parent() -> None:
    """Ends this process at once when the one that launched it is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_wait_for_the_end, name="petune-parent", daemon=True).start()


def _wait_for_the_end() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)


def told(error: BaseException) -> dict[str, Any]:
    """An error as JSON: the parent raises it again."""
    from petune.errors import PetuneError

    if isinstance(error, PetuneError):
        parts = {"what": error.what, "expected": error.expected, "fix": error.fix}
        return {"class": type(error).__name__, **parts}
    words = "".join(traceback.format_exception(error))
    if isinstance(error, KeyboardInterrupt | SystemExit):  # a signal was answered; it says what was saved
        notes = getattr(error, "__notes__", [])
        what = " ".join([*notes, *([] if notes else [str(error)])])
        code = getattr(error, "code", None)
        number = code - 128 if isinstance(code, int) and code > 128 else 0
        if isinstance(error, KeyboardInterrupt):
            number = signal.SIGINT
        return {"class": None, "what": what, "traceback": words, "signal": int(number)}
    return {"class": None, "what": f"{type(error).__name__}: {error}", "traceback": words}


def teller(stream: IO[str]) -> Any:
    """A callback that tells the parent, whose own callbacks watch the run."""
    from petune.training.callbacks import Callback, Row, RunStart

    class Teller(Callback):
        def on_start(self, start: RunStart) -> None:
            self._tell("start", list(start))

        def on_step(self, row: Row) -> None:
            self._tell("step", row)

        def on_evaluate(self, row: Row) -> None:
            self._tell("evaluate", row)

        def _tell(self, what: str, value: Any) -> None:
            stream.write(json.dumps([what, value]) + "\n")
            stream.flush()

    return Teller()


def work(folder: Path, rank: int, job: Job) -> None:
    """Trains; the main process leaves the adapter's tensors and the report."""
    from petune.errors import TrainingError
    from petune.model.bank import Bank
    from petune.model.learner import Learner
    from petune.storage import checkpoint as storage
    from petune.storage.packing import identity
    from petune.training import loop
    from petune.training.fitting import fresh, reside

    bank = Bank(job.backbone)
    adapter = fresh(job.backbone, job.name, job.task, job.method, job.start, job.config.seed)
    reside(bank, adapter)
    learner, report = Learner(bank, adapter), None
    (folder / f"ready-{rank}").touch()
    try:
        with (folder / f"events-{rank}.jsonl").open("a", encoding="utf-8") as stream:
            report = loop.train(
                learner, job.task, job.tokenizer, job.train, job.evaluation, job.config,
                resume=job.resume, callbacks=[teller(stream)], identity={"backbone": identity(job.backbone)},
            )  # fmt: skip
    finally:
        good = report is not None or isinstance(sys.exception(), TrainingError)
        if rank == 0 and good:
            tensors = {name: tensor.cpu() for name, tensor in learner.state().items()}
            state = {"report": None if report is None else dataclasses.asdict(report)}
            storage.write(folder / "result", 1, tensors, state, keep_last=1)


def main(folder: Path) -> int:
    """The exit status; what went wrong is in `error-<rank>.json`."""
    stay_no_longer_than_the_parent()
    rank = int(os.environ["RANK"])
    try:
        from petune.training.ranks.parcel import unpack_job

        work(folder, rank, unpack_job(folder))
    except BaseException as error:
        made = folder / f".error-{rank}"
        made.write_text(json.dumps(told(error)), encoding="utf-8")
        made.rename(folder / f"error-{rank}.json")
        return 1
    return 0


if __name__ == "__main__":
    status = main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    # No farewell of the process group: after a lost process it would wait for it.
    os._exit(status)
