"""Ctrl-C and SIGTERM: the running step is finished, a checkpoint is written, and then the run is left.

    Ctrl-C (SIGINT)     KeyboardInterrupt; a second one, a moment later, leaves at once and saves nothing
    SIGTERM             SystemExit(143), the status that shells, systemd, Slurm and Kubernetes know for it

Machines that are taken back send SIGTERM and wait; so do process managers. SystemExit lets every `finally` and `with`
of the program run, which a death by the signal itself would not. A signal that the program ignores stays ignored.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator

from petune.training.heeding import Heed, ending
from petune.training.ledger import STEPS_PER_SYNC
from petune.training.progress import say
from petune.training.resume import save

if TYPE_CHECKING:
    from petune.training.run import Run


class Leaving:
    """Whether a signal has come, and the way out.

    Args:
        runs: all that a step may be running of.
    """

    def __init__(self, runs: Sequence[Run], accelerator: Accelerator) -> None:
        self._runs, self._accelerator = runs, accelerator
        self._heed = Heed()

    @property
    def asked(self) -> int:
        """The signal that has come, to this process or another; 0: none."""
        return self._heed.asked

    def heed(self) -> None:
        """Takes the signals over."""
        self._heed.begin()

    def hand_back(self) -> None:
        """Gives the signals back."""
        self._heed.end()

    def ahead(self, going: list[Run]) -> list[Run]:
        """The runs that must go on: all of them, or after a signal those in the middle of a step.

        Raises:
            KeyboardInterrupt, SystemExit: after a signal, once no run is; what can be saved is saved.
        """
        between = not any(run.is_mid_step for run in going)
        if not self._all_asked(going) if between else not self.asked:
            return going
        if rest := [run for run in going if run.is_mid_step]:
            return rest
        told = [_saved(run) for run in self._runs if not run.is_over]
        if any(run.config.progress != "off" for run in self._runs):
            say(told)
        raise self.exit(told)

    def exit(self, told: Sequence[str] = ()) -> BaseException:
        """What ends the program as the signal would; `told` is noted on it.

        A handler that the program had for the signal is called first.
        """
        self.hand_back()
        before = self._heed.handler()
        if callable(before) and before is not signal.default_int_handler:
            before(self.asked, None)
        return ending(self.asked, told)

    def _all_asked(self, going: Sequence[Run]) -> bool:
        """Whether any process was asked to leave, found out together: all leave after the same step.

        On an accelerator that would wait for the device, so it is done as seldom as losses are looked at.
        """
        accelerator = self._accelerator
        if accelerator.num_processes == 1 or not going:
            return bool(self.asked)
        if accelerator.device.type != "cpu" and going[0].step % STEPS_PER_SYNC:
            return False
        number = torch.tensor(self.asked, device=accelerator.device)
        torch.distributed.all_reduce(number, op=torch.distributed.ReduceOp.MAX)
        self._heed.asked = int(number)
        return bool(self.asked)


@contextmanager
def leaving_cleanly(runs: Sequence[Run], accelerator: Accelerator) -> Iterator[Leaving]:
    """Heeds the signals while runs last; one that came too late for another step is answered at the end."""
    leaving = Leaving(runs, accelerator)
    leaving.heed()
    try:
        yield leaving
    except Exception as error:
        if leaving.asked:
            raise leaving.exit() from error
        raise
    finally:
        leaving.hand_back()
    if leaving.asked:
        raise leaving.exit()


def _saved(run: Run) -> str:
    """Writes a checkpoint if the run keeps any; what became of the run, as a sentence."""
    told = f"Stopped after step {run.step} of {run.course.total}"
    if not run.step:
        return f"{told}: nothing had begun."
    if run.config.save_every is None:
        return f"{told}. Nothing is kept of it: TrainConfig(output_dir=..., save_every=...) keeps checkpoints."
    with run.guarded():
        if run.saved_at != run.step:
            save(run)
    if run.failure is not None:
        return f"{told}. {run.failure}"
    return f"{told}; {run.config.output_dir} holds a checkpoint of it. resume='auto' goes on."
