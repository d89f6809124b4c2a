"""Lines of other commands: the tests marked ``gpu``, ``doctor``, and the overhead of the meters."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator

from tests.gpu.line import NEEDS_CARD, CheckError, Line, at_least, at_most, skipped
from tests.gpu.runs import CACHED, ROOT, Runs

OVERHEAD_SECONDS = 45
OVERHEAD_STEPS = 10


def marked_tests(runs: Runs) -> Iterator[Line]:
    """The tests marked ``gpu``."""
    if importlib.util.find_spec("pytest") is None or importlib.util.find_spec("xdist") is None:
        yield skipped("tests marked gpu", "pytest is not installed: pip install -e '.[test]'")
        return
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if "pytest.mark.gpu" in path.read_text("utf-8")]
    options = ["-m", "gpu", "-n", "0", "-q", "-p", "no:cacheprovider"]
    done = runs.command("-m", "pytest", *options, *map(str, sorted(files)))
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout)}
    if done.returncode not in (0, 1) or not counts:
        raise CheckError(f"pytest: exit status {done.returncode}: {(done.stdout or '-').splitlines()[-1]}")
    yield at_most("tests marked gpu that fail", counts.get("failed", 0) + counts.get("error", 0), 0)
    if runs.dry:
        yield skipped("tests marked gpu that pass", NEEDS_CARD)
    else:
        yield at_least("tests marked gpu that pass", counts.get("passed", 0), 1)


def doctor(runs: Runs) -> Iterator[Line]:
    """Findings of ``doctor`` that make figures wrong."""
    matrix = runs.write_matrix("doctor", ["fft", CACHED], {"steps": 1})
    done = runs.command("run_bench.py", "doctor", "--config", str(matrix), "--json")
    if done.returncode not in (0, 1):
        raise CheckError(f"doctor: exit status {done.returncode}: {(done.stderr or '-').splitlines()[-1]}")
    wrong = [found for found in json.loads(done.stdout) if found["level"] == "wrong"]
    reason = "; ".join(f"{found['check']}: {found['finding']}" for found in wrong)
    line = at_most("findings of doctor that are wrong", len(wrong), 0, reason=reason)
    yield line.not_judged() if runs.dry else line


def meters(runs: Runs) -> Iterator[Line]:
    """What the meters add to a step of the method with the shortest steps."""
    step = runs.found()[CACHED].row["step_seconds_median"]
    pairs = 1 if runs.dry else min(max(int(OVERHEAD_SECONDS / (2 * (OVERHEAD_STEPS + 1) * step)), 10), 150)
    preset, device = ("smoke", "cpu") if runs.dry else ("paper", "cuda")
    options = ["--preset", preset, "--device", device, "--pairs", str(pairs), "--steps", str(OVERHEAD_STEPS), "--json"]
    done = runs.command("-m", "tests.benchmarks.meter_overhead", *options)
    if done.returncode not in (0, 1):
        raise CheckError(f"meter_overhead: exit status {done.returncode}: {(done.stderr or '-').splitlines()[-1]}")
    found = json.loads(done.stdout)
    interval = f"95 % interval {100 * found['low']:.2g} to {100 * found['high']:.2g} %, {pairs} pairs of blocks"
    line = at_most(f"{CACHED}: overhead of the meters", 100 * found["share"], 1, "%", interval)
    yield line.not_judged() if runs.dry else line
