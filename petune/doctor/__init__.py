"""What is in a folder of adapters, checkpoints or models, and what is wrong with it: read, never executed."""

from __future__ import annotations

from petune.doctor.diagnosis import Diagnosis
from petune.doctor.examining import diagnose
from petune.doctor.finding import Finding

__all__ = ["Diagnosis", "Finding", "diagnose"]
