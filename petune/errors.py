"""Every error that petune raises on purpose.

    PetuneError
    ├── ConfigError      (ValueError)   a knob that is unknown, contradictory or out of range
    │   └── UnknownNameError (LookupError)  a name that nothing answers to; carries the near ones
    ├── DataError        (ValueError)   rows, columns, labels, files of data
    ├── BackboneError    (ValueError)   a backbone that cannot serve: no site, no pad token, no hook
    ├── AdapterError     (ValueError)   an adapter that does not fit here
    │   └── AdapterFileError            an adapter folder that is wrong, torn or of another backbone
    ├── RouteError       (LookupError)  a call that names adapters which are not resident
    ├── MergeError       (RuntimeError) a merge that is impossible, or work that a merge forbids
    ├── TrainingError    (RuntimeError) a run that went wrong: NaN loss, no data left
    ├── ProcessError     (RuntimeError) processes that train together: one was lost, or they do not agree
    └── CheckpointError  (ValueError)   a checkpoint that cannot be resumed

Each message is up to three sentences: what happened, what was expected, how to fix it.
"""

from __future__ import annotations


class PetuneError(Exception):
    """The root of the tree: `except PetuneError` catches all that petune raises on purpose.

    Examples:
        >>> str(PetuneError("It rains.", expected="Sun was expected.", fix="Take an umbrella."))
        'It rains. Sun was expected. Take an umbrella.'
    """

    def __init__(self, what: str, *, expected: str = "", fix: str = "") -> None:
        self.what, self.expected, self.fix = what, expected, fix
        super().__init__(" ".join(part for part in (what, expected, fix) if part))


class ConfigError(PetuneError, ValueError):
    """A knob that is unknown, contradictory or out of range."""


class UnknownNameError(ConfigError, LookupError):
    """A name that nothing answers to."""


class DataError(PetuneError, ValueError):
    """Rows, columns, labels or files of data that cannot be used as they are."""


class BackboneError(PetuneError, ValueError):
    """A backbone that cannot do what was asked of it."""


class AdapterError(PetuneError, ValueError):
    """An adapter that does not fit here."""


class AdapterFileError(AdapterError):
    """An adapter folder that is wrong, torn, or made for another backbone."""


class RouteError(PetuneError, LookupError):
    """A call that names adapters which are not resident."""


class MergeError(PetuneError, RuntimeError):
    """A merge that is impossible, or work that is forbidden while merged."""


class TrainingError(PetuneError, RuntimeError):
    """A training run that went wrong."""


class ProcessError(PetuneError, RuntimeError):
    """Several processes that train one adapter: one of them was lost, or they no longer agree."""


class CheckpointError(PetuneError, ValueError):
    """A checkpoint that is torn or belongs to another run."""
