"""Merging with a receipt: the logits on the probe before and after."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from petune.errors import MergeError
from petune.model import quantizing
from petune.model.adapter import Adapter, copied
from petune.model.bank import Bank
from petune.model.gate import changing, running
from petune.model.own_rows import refuse_merge
from petune.model.probe import difference, replay, tolerance
from petune.model.shell import Shell


@dataclass(frozen=True)
class MergeReceipt:
    """What a merge did, measured on the probe.

    Args:
        name: the adapter.
        max_logit_difference: largest absolute difference of the logits, merged against active.
        tolerance: what was accepted for the backbone's type.
        sites: weights that were changed; 0 where a peft method merges its own way.

    Examples:
        >>> print(MergeReceipt("a", 1e-7, 1e-4, 12))
        Merged 'a' into 12 weights; largest logit difference on the probe 1.0e-07 (accepted 1.0e-04).
    """

    name: str
    max_logit_difference: float
    tolerance: float
    sites: int

    def __str__(self) -> str:
        where = f" into {self.sites} weights" if self.sites else ""
        return (
            f"Merged {self.name!r}{where}; largest logit difference on the probe "
            f"{self.max_logit_difference:.1e} (accepted {self.tolerance:.1e})."
        )


def merge(bank: Bank, adapter: Adapter) -> MergeReceipt:
    """Merges a resident adapter and compares its logits; a difference that is too large undoes the merge.

    A quantised backbone is a plain one meanwhile: unpacked, with the change in its weights.

    Calls that run are waited for; calls that begin meanwhile wait.

    Raises:
        MergeError: the method cannot be merged, or the logits differ by more than the tolerance.
    """
    refuse_merge(adapter)  # before anybody waits
    with changing(bank.backbone.model):
        return _merged(bank, adapter.name)


def _merged(bank: Bank, name: str) -> MergeReceipt:
    """Merges while no call runs."""
    with bank.steady:
        adapter = bank.find(name)
        refuse_merge(adapter)
        bank.refuse_while_merged("merge again")
        before = replay(adapter, bank.frame(name))
        bank.merge(name)
        try:
            return _accepted(_receipt(bank, adapter, before, replay(adapter, None)), bank)
        except BaseException:
            bank.unmerge()
            raise


def unmerge(bank: Bank) -> None:
    """Puts the original bits back; waits for running calls as `merge` does.

    Raises:
        MergeError: nothing is merged.
    """
    with changing(bank.backbone.model):
        bank.unmerge()


def _receipt(bank: Bank, adapter: Adapter, before: Tensor, after: Tensor) -> MergeReceipt:
    model, size = bank.backbone.model, max(1.0, float(before.abs().max()))
    accepted = max(tolerance(bank.backbone.dtype, before), quantizing.looseness(model, bank.backbone.quantized) * size)
    return MergeReceipt(adapter.name, difference(before, after), accepted, len(adapter.body.sites))


def _accepted(receipt: MergeReceipt, bank: Bank) -> MergeReceipt:
    """The receipt, unless it says that the answers would change."""
    if receipt.max_logit_difference > receipt.tolerance:
        raise MergeError(
            f"Merging {receipt.name!r} would change the logits on the probe by {receipt.max_logit_difference:.1e}.",
            expected=f"At most {receipt.tolerance:.1e} is accepted for {bank.backbone.dtype}.",
            fix="Serve it unmerged, or merge into a float32 backbone.",
        )
    return receipt


def _copy_while_merged(bank: Bank, adapter: Adapter) -> tuple[PreTrainedModel, MergeReceipt]:
    """Replaced modules cannot follow a deep copy, so the copy is made while they are merged away, and calls wait."""
    with changing(bank.backbone.model):
        receipt = _merged(bank, adapter.name)
        try:
            model = copy.deepcopy(adapter.shell.model)
        finally:
            bank.unmerge()
    return model, receipt


def merged_copy(bank: Bank, adapter: Adapter) -> tuple[PreTrainedModel, MergeReceipt]:
    """An independent merged model; this backbone stays as it is.

    Raises:
        MergeError: as `merge`.
    """
    refuse_merge(adapter)
    if adapter.method.residence == "sole":
        return _copy_while_merged(bank, adapter)
    with running(bank.backbone.model):
        return _copy_apart(bank, adapter.name)


def _copy_apart(bank: Bank, name: str) -> tuple[PreTrainedModel, MergeReceipt]:
    """A merged copy, made beside the calls that run, and as one of them."""
    bank.refuse_while_merged("make a merged copy")
    with bank.steady:  # no hook may come or go meanwhile
        frame, home = bank.frame(name), copied(bank.backbone)
    # The frame's: as long as a call holds an adapter that was replaced, its weights stay where they are.
    adapter = frame.groups[0].adapter
    apart = Shell(home, adapter.task.auto_class, adapter.task.model_config(), private=True)
    with torch.no_grad():  # by their names in the shell: a head part inside of the backbone is at its place there
        for name, tensor in adapter.head().items():
            apart.model.get_parameter(name).copy_(tensor)
    adapter.body.merge(apart.base)
    quantizing.forget(home.model.config)
    before, after = replay(adapter, frame), replay(dataclasses.replace(adapter, shell=apart), None)
    return apart.model, _accepted(_receipt(bank, adapter, before, after), bank)
