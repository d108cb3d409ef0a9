"""`import petune` is cheap: it brings in no torch and costs under a tenth of a second."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = ("torch", "transformers", "numpy", "datasets", "peft", "accelerate", "sklearn", "evaluate", "pandas", "rich")
LIMIT_SECONDS = 0.1
RUNS = 3

PROBE = """
import json, resource, sys
def spent():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
before = spent()
import petune
print(json.dumps({"seconds": spent() - before, "modules": sorted(sys.modules)}))
"""


def probe(*flags: str) -> dict[str, object]:
    """What a fresh interpreter says about `import petune`."""
    done = subprocess.run([sys.executable, *flags, "-c", PROBE], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_import_brings_in_no_torch() -> None:
    """The door is lazy: nothing heavy is loaded before a name is used."""
    loaded = {str(name).split(".")[0] for name in probe()["modules"]}  # type: ignore[union-attr]
    assert "petune" in loaded
    assert not loaded & set(HEAVY)


def test_import_costs_little_processor_time() -> None:
    """Processor time of the import, without the interpreter's start; the best of a few runs, so load is no matter."""
    assert min(float(probe()["seconds"]) for _ in range(RUNS)) < LIMIT_SECONDS  # type: ignore[arg-type]


def test_the_public_names_are_listed_and_resolve() -> None:
    """`dir(petune)` and `__all__` name the door's contents without loading them, and each name is there."""
    code = "import petune, sys; assert set(petune.__all__) <= set(dir(petune)); assert 'torch' not in sys.modules; "
    code += "[getattr(petune, name) for name in petune.__all__]"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
