"""The error tree: one root, the builtins a caller would catch, and messages of up to three sentences."""

from __future__ import annotations

import inspect
import pickle

import pytest

from petune import errors
from petune.errors import PetuneError

LEAVES = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, PetuneError)]
BUILTINS = {
    "ConfigError": ValueError,
    "UnknownNameError": LookupError,
    "DataError": ValueError,
    "BackboneError": ValueError,
    "AdapterError": ValueError,
    "AdapterFileError": ValueError,
    "RouteError": LookupError,
    "MergeError": RuntimeError,
    "TrainingError": RuntimeError,
    "ProcessError": RuntimeError,
    "CheckpointError": ValueError,
}


@pytest.mark.parametrize("cls", LEAVES, ids=lambda cls: cls.__name__)
def test_each_error_says_what_was_expected_and_how_to_fix_it(cls: type[PetuneError]) -> None:
    """The three sentences come in order, and each part can be read on its own."""
    error = cls("It broke.", expected="It should hold.", fix="Glue it.")
    assert str(error) == "It broke. It should hold. Glue it."
    assert (error.what, error.expected, error.fix) == ("It broke.", "It should hold.", "Glue it.")
    assert str(cls("It broke.")) == "It broke."


@pytest.mark.parametrize("cls", LEAVES, ids=lambda cls: cls.__name__)
def test_an_error_survives_pickling(cls: type[PetuneError]) -> None:
    """Worker processes hand errors to their parent by pickle; class, text and parts arrive."""
    error = pickle.loads(pickle.dumps(cls("It broke.", expected="It should hold.", fix="Glue it.")))
    assert type(error) is cls
    assert str(error) == "It broke. It should hold. Glue it."
    assert error.fix == "Glue it."


def test_the_tree_is_the_one_that_is_drawn() -> None:
    """Every class of the module is drawn at its top, and no other."""
    drawn = [line for line in (errors.__doc__ or "").splitlines() if ("Error" in line and "(" in line) or "└" in line]
    assert all(any(cls.__name__ in line for line in drawn) for cls in LEAVES if cls is not PetuneError)
    assert len(drawn) == len(LEAVES) - 1


@pytest.mark.parametrize(("name", "builtin"), BUILTINS.items())
def test_a_leaf_is_also_the_builtin(name: str, builtin: type[Exception]) -> None:
    """Code that knows nothing of petune catches what it would catch anyway."""
    with pytest.raises(builtin, match="It broke"):
        raise getattr(errors, name)("It broke.")


def test_a_lookup_error_is_not_quoted() -> None:
    """KeyError would print its message in quotes; the tree uses LookupError, which does not."""
    assert not any(issubclass(cls, KeyError) for cls in LEAVES)
