"""Mutation test of the modules that make numbers: plant small errors and count those that the tests notice.

    python -m tests.benchmarks.mutation bench/scoring/tpme.py
    python -m tests.benchmarks.mutation bench/training/loop.py --tests tests/training tests/cell/test_run_cell.py

mutmut (``pip install -e '.[test,dev]'``) changes one expression of the module at a time and runs the tests that reach
the changed function. A mutant survives if they all pass. The survivors are printed as differences, and the exit status
is 1 if fewer than 95 % of the mutants are noticed. Left out of the count, since no result can show them: the wording of
error messages, ``strict`` of ``zip``, and the mutants of ``equivalent_mutants.toml``, each with its reason.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

ROOT = Path(__file__).parents[2]
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.toml")
LIMIT = 0.95
# Exit codes of pytest for one mutant, as mutmut records them.
SURVIVED, NO_TESTS = (0,), (5, 33)
SETTINGS = """
[tool.mutmut]
source_paths = ["bench", "methods", "reports"]
only_mutate = {modules}
pytest_add_cli_args_test_selection = {tests}
pytest_add_cli_args = ["-n", "0", "-q", "-p", "no:cacheprovider", "-m", "not gpu"]
also_copy = ["run_bench.py", "README.md"]
process_isolation = "forkserver"
"""


def copy_tree(to: Path) -> None:
    """Copy the project's files, committed or not, without what git ignores."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)


def run_mutmut(folder: Path, modules: list[str], tests: list[str]) -> None:
    """Run every mutant of the modules in the copy of the project; progress goes to ``mutmut.log`` there."""
    with (folder / "pyproject.toml").open("a", encoding="utf-8") as file:
        file.write(SETTINGS.format(modules=json.dumps(modules), tests=json.dumps(tests)))
    log = folder / "mutmut.log"
    with log.open("w", encoding="utf-8") as file:
        command = [sys.executable, "-m", "mutmut", "run"]
        code = subprocess.run(command, cwd=folder, stdout=file, stderr=file, check=False).returncode
    if code:
        sys.exit(f"mutmut ended with {code}; the end of its log:\n" + log.read_text(encoding="utf-8")[-3000:])


def functions(source: str) -> dict[str, ast.AST]:
    """All functions of a mutated module by name; mutmut keeps the original as ``..._orig`` beside its mutants."""
    tree = ast.walk(ast.parse(source))
    return {node.name: node for node in tree if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def change(original: ast.AST, mutant: ast.AST, above: tuple[ast.AST, ...] = ()) -> tuple[ast.AST, ...]:
    """Path of nodes from the function down to the first one that differs, in the original."""
    path = (*above, original)
    ours, theirs = list(ast.iter_child_nodes(original)), list(ast.iter_child_nodes(mutant))
    if type(original) is not type(mutant) or len(ours) != len(theirs):
        return path
    for one, other in zip(ours, theirs, strict=True):
        if ast.dump(one) != ast.dump(other):
            return change(one, other, path)
    return path


def cannot_show(path: tuple[ast.AST, ...]) -> bool:
    """Whether the change is in the wording of an error message or in ``strict`` of ``zip``."""
    if any(isinstance(node, ast.Raise) or (isinstance(node, ast.keyword) and node.arg == "strict") for node in path):
        return True
    last = path[-1]
    return isinstance(last, ast.Call) and isinstance(last.func, ast.Name) and last.func.id == "zip"


def lines_changed(original: ast.AST, mutant: ast.AST) -> tuple[str, str]:
    """The first line of the function's normalised source that differs, before and after."""
    sources = [re.sub(r"x\S+__mutmut_\w+", "", ast.unparse(node)).splitlines() for node in (original, mutant)]
    for was, becomes in zip_longest(*sources, fillvalue=""):
        if was != becomes:
            return was.strip(), becomes.strip()
    return "", ""


def survivors(folder: Path, module: str) -> Iterator[tuple[str, str, str, bool]]:
    """Function, line before, line after, and whether no result can show it, of each mutant that no test noticed."""
    file = folder / "mutants" / module
    codes = json.loads(file.with_name(file.name + ".meta").read_text(encoding="utf-8"))["exit_code_by_key"]
    known = functions(file.read_text(encoding="utf-8"))
    for key, code in codes.items():
        if code in SURVIVED + NO_TESTS:
            name = key.rpartition(".")[2]
            stem = name.rpartition("__mutmut_")[0]
            original, mutant = known[f"{stem}__mutmut_orig"], known[name]
            was, becomes = lines_changed(original, mutant)
            function = stem.removeprefix("x_").removeprefix("xǁ").replace("ǁ", ".")  # xǁClassǁmethod
            yield function, was, becomes, cannot_show(change(original, mutant))


def counted(folder: Path, module: str) -> int:
    """Number of mutants that were run."""
    file = folder / "mutants" / f"{module}.meta"
    return len(json.loads(file.read_text(encoding="utf-8"))["exit_code_by_key"])


def report(folder: Path, module: str) -> float:
    """Print the survivors and the score of a module, and return the score."""
    entries = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8")).get(module, {}).get("list", [])
    listed = {(entry["was"], entry["becomes"]) for entry in entries}
    found = list(survivors(folder, module))
    left = [(name, was, becomes) for name, was, becomes, hidden in found if not hidden and (was, becomes) not in listed]
    for name, was, becomes in left:
        print(f"{name}\n  - {was}\n  + {becomes}")
    total = counted(folder, module)
    equivalent = len(found) - len(left)
    score = (total - len(found)) / max(1, total - equivalent)
    print(f"{module}: {total} mutants, {equivalent} equivalent, {len(left)} survive: {score:.1%} noticed", flush=True)
    return score


def main() -> None:
    """Mutate the modules named on the command line and report on each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="+", help="files of the project, e.g. bench/scoring/tpme.py")
    parser.add_argument("--tests", nargs="+", help="test files or folders, else the mirrored folder")
    args = parser.parse_args()
    scores = []
    for module in args.modules:
        inside = module.removeprefix("bench/")
        tests = args.tests or [str(Path("tests") / Path(inside).parent)]
        with tempfile.TemporaryDirectory() as folder:
            copy_tree(Path(folder))
            run_mutmut(Path(folder), [module], tests)
            scores.append(report(Path(folder), module))
    sys.exit(min(scores) < LIMIT)


if __name__ == "__main__":
    main()
