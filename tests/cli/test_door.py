"""The door of the command line: quick, plain about errors, and with exit codes that scripts can go by."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import petune
from petune.cli import commands, main, registry
from petune.errors import DataError

ROOT = Path(petune.__file__).parent.parent
LIMIT_SECONDS, RUNS = 0.5, 3
HEAVY = {"torch", "transformers", "numpy", "datasets", "peft", "accelerate", "sklearn", "pandas", "safetensors"}
PROBE = """
import json, resource, sys
from petune.cli import main
try:
    main(sys.argv[1:])
except SystemExit as leaving:
    code = leaving.code
used = resource.getrusage(resource.RUSAGE_SELF)
told = {"code": code, "seconds": used.ru_utime + used.ru_stime, "modules": sorted(sys.modules)}
print(json.dumps(told), file=sys.stderr)
"""


def probe(*words: str) -> dict[str, object]:
    """What a fresh interpreter says about one call, its own start included."""
    done = subprocess.run([sys.executable, "-c", PROBE, *words], capture_output=True, text=True, check=True, cwd=ROOT)
    return json.loads(done.stderr.splitlines()[-1])


def left(*words: str) -> int:
    """The exit code of a call in this process."""
    with pytest.raises(SystemExit) as caught:
        main(words)
    return int(caught.value.code or 0)


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["doctor", "--help"], ["doctr"]], ids=" ".join)
def test_the_door_is_quick(words: list[str]) -> None:
    """Help, version and a misspelt command import nothing heavy and take little processor time."""
    runs = [probe(*words) for _ in range(RUNS)]
    loaded = {str(name).split(".")[0] for name in runs[0]["modules"]}  # type: ignore[union-attr]
    assert not loaded & HEAVY
    assert min(float(run["seconds"]) for run in runs) < LIMIT_SECONDS  # type: ignore[arg-type]


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Both leave with 0; the help tells every command with its first line."""
    assert left("--version") == 0 and capsys.readouterr().out == f"petune {petune.__version__}\n"
    assert left("--help") == 0
    told = capsys.readouterr().out
    assert all(name in told for name in registry.names())


def test_python_m_petune_is_the_command_line() -> None:
    """`python -m petune` and the script of the package are one door."""
    done = subprocess.run([sys.executable, "-m", "petune", "--version"], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, f"petune {petune.__version__}\n")
    assert 'petune = "petune.cli:main"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["doctr", "x"], "Did you mean 'doctor'"),
        (["doctor"], "Missing argument"),
        (["doctor", "--jsn", "x"], "--json"),
        ([], ""),
    ],
)
def test_wrong_usage_leaves_with_two(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt command or option is answered with the near one, on stderr, without a traceback."""
    assert left(*words) == 2
    told = capsys.readouterr()
    assert said in told.err and "Traceback" not in told.err


def _fails(kind: int = 0) -> None:
    """Fails."""
    if kind == 2:
        raise KeyboardInterrupt
    if kind == 3:
        warnings.warn("It is cloudy.", stacklevel=1)
        return
    raise DataError("It rains.", expected="Sun.", fix="Take an umbrella.") if not kind else ZeroDivisionError("by 0")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command `fails` beside the real ones."""
    module = type(sys)(f"{commands.__name__}.fails")
    module.fails = _fails  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(registry, "names", lambda: ("doctor", "fails"))


@pytest.mark.usefixtures("failing")
def test_a_failed_job_leaves_with_one(capsys: pytest.CaptureFixture[str]) -> None:
    """petune's own errors are told in three lines on stderr."""
    assert left("fails") == 1
    assert capsys.readouterr() == ("", "Error: It rains.\nSun.\nTake an umbrella.\n")


@pytest.mark.usefixtures("failing")
def test_verbose_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """`-v` before or behind the command brings the traceback, and only then."""
    for words in (["-v", "fails"], ["fails", "-v"], ["fails", "--verbose"]):
        assert left(*words) == 1
        assert "Traceback" in capsys.readouterr().err


@pytest.mark.usefixtures("failing")
def test_what_nobody_foresaw_is_said_to_be_that(capsys: pytest.CaptureFixture[str]) -> None:
    """Another exception names its class and asks for -v; Ctrl-C leaves with 130."""
    assert left("fails", "--kind", "1") == 1
    told = capsys.readouterr().err
    assert "ZeroDivisionError: by 0" in told and "-v" in told and "Traceback" not in told
    assert left("fails", "--kind", "2") == 130


def test_a_closed_pipe_is_no_traceback(tmp_path: Path) -> None:
    """`petune doctor ... | head` ends quietly when head has seen enough."""
    read, write = os.pipe()
    os.close(read)
    code = "from petune.cli import main; main(['doctor', '/no/such/folder'])"
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    os.close(write)
    assert done.returncode == 1 and "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr


@pytest.mark.parametrize("name", registry.names())
def test_a_command_is_a_file(name: str) -> None:
    """It holds a function of its name with a docstring, and imports at its top nothing but light things."""
    path = Path(commands.__path__[0]) / f"{name.replace('-', '_')}.py"
    tree = ast.parse(path.read_text("utf-8"))
    assert registry.build(name).name == name and registry.build(name).help
    tops = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    named = {alias.name for node in tops if isinstance(node, ast.Import) for alias in node.names}
    named |= {str(node.module) for node in tops if isinstance(node, ast.ImportFrom)}
    mine = {name for name in named if name.startswith("petune")}
    assert mine <= {"petune.errors", "petune.lookup"} and {name.split(".")[0] for name in named} <= {
        *sys.stdlib_module_names,
        "typer",
        "petune",
    }


@pytest.mark.parametrize("command", ["fit", "compare", "predict", "demo"])
def test_help_cuts_no_name_short(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a narrow terminal too: every option stands there in full, under its heading."""
    monkeypatch.setenv("COLUMNS", "60")
    assert left(command, "--help") == 0
    told = capsys.readouterr().out
    assert "…" not in told and "\nOptions:\n" in told and max(map(len, told.splitlines())) <= 100
    if command == "fit":
        assert "\nKnobs of fitting:\n" in told and "--gradient-checkpointing / --no-gradient-checkpointing" in told


@pytest.mark.usefixtures("failing")
def test_warnings_are_lines_without_places_in_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    """What the library warns of is a line on stderr, and Python's own way of showing warnings is given back."""
    shown = warnings.showwarning
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert left("fails", "--kind", "3") == 0
    assert "Warning: It is cloudy.\n" in capsys.readouterr().err
    assert warnings.showwarning is shown
