"""Imports between folders: a table of who may import whom, held against every import statement of the product.

Statements within functions and under ``TYPE_CHECKING`` count as all others do, and so do names of modules in strings
(the targets of the method registry, the table of commands, the ``-m`` of a worker).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("bench", "methods", "reports")
MOST_ENTRIES = 14
"""Files and folders in one folder; more are two folders."""

# The three packages of the harness that reports may read.
SHARED = "bench.utils bench.records bench.scoring"
# Folder or module -> those that it may import besides itself. A folder stands for all below it that has no line here.
# From bottom to top: every line names lines above it alone.
MAY_IMPORT: dict[str, str] = {
    "bench.utils": "",
    "bench.records": "bench.utils",
    "bench.scoring": "bench.utils",
    "bench.data": "bench.utils bench.scoring",
    "bench.models": "bench.utils bench.data",
    "methods": "bench.utils bench.models",
    "bench.measure": "bench.utils bench.records bench.models",
    "bench.training": f"{SHARED} bench.data bench.models methods bench.measure",
    "bench.config": "bench.utils bench.records bench.data bench.models methods bench.training",
    "bench.cell": f"{SHARED} bench.data bench.models methods bench.measure bench.training bench.config",
    "bench.launch": "bench.utils bench.records bench.measure bench.config bench.cell",
    "reports.text": SHARED,
    "reports.load": f"{SHARED} reports.text",
    "reports.analysis": f"{SHARED} reports.text reports.load",
    "reports.figures": f"{SHARED} reports.text reports.load reports.analysis",
    "reports.sections": f"{SHARED} reports.text reports.load reports.analysis reports.figures",
    "reports.studies": f"{SHARED} reports.text reports.load reports.analysis reports.figures reports.sections",
    "reports.render": (
        f"{SHARED} reports.text reports.load reports.analysis reports.figures reports.sections reports.studies"
    ),
    "reports.build": (
        f"{SHARED} reports.text reports.load reports.analysis reports.figures reports.sections reports.studies "
        "reports.render"
    ),
    "bench.commands": (
        f"{SHARED} bench.data bench.models methods bench.measure bench.training bench.config bench.cell bench.launch "
        "reports.text reports.load reports.analysis reports.figures reports.build"
    ),
    "run_bench": "bench.utils bench.commands",
}

# Module -> the modules that it names in strings.
NAMED_IN_STRINGS: dict[str, set[str]] = {
    "bench.launch.supervisor": {"bench.launch.worker"},
    "bench.launch.fork_server": {"bench.launch.preload"},
    "bench.models.pretrain.__main__": {"bench.models.pretrain"},
    "methods.registry": {
        "methods.adapter", "methods.bitfit", "methods.fft", "methods.frozen", "methods.iisan", "methods.linear_probe",
        "methods.lst", "methods.peft.lora", "methods.peft.prefix", "methods.peft.tuner",
    },
    "run_bench": {
        "bench.commands.cache", "bench.commands.check.command", "bench.commands.compare",
        "bench.commands.data.command", "bench.commands.doctor.command", "bench.commands.list", "bench.commands.plan",
        "bench.commands.report", "bench.commands.run", "bench.commands.score", "bench.commands.tune.command",
    },
}  # fmt: skip
NAME = re.compile(rf"(?P<module>(?:{'|'.join(PACKAGES)})(?:\.\w+)+)(?::(?P<member>\w+))?")


@dataclass(frozen=True)
class Module:
    """A module of the product.

    Attributes:
        imports: modules of the product in its import statements.
        named: module and member of strings such as ``methods.fft:FullFineTuning``; "" where no member is named.
    """

    path: Path
    imports: frozenset[str]
    named: frozenset[tuple[str, str]]
    defines: frozenset[str]

    @property
    def uses(self) -> set[str]:
        return self.imports | {name for name, _ in self.named}


def paths() -> dict[str, Path]:
    """Dotted name -> file of every module of the product."""
    found = {}
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found | {"run_bench": ROOT / "run_bench.py"}


@cache
def modules() -> dict[str, Module]:
    """Dotted name -> module."""
    known = paths()
    return {name: parsed(name, path, known) for name, path in known.items()}


def parsed(name: str, path: Path, known: dict[str, Path]) -> Module:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    targets: set[str] = set()
    named: set[tuple[str, str]] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}, line {node.lineno}: a relative import"
            for alias in node.names:
                member = f"{node.module}.{alias.name}"
                targets.add(member if member in known else str(node.module))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and (match := NAME.fullmatch(node.value)):
            named.add((match["module"], match["member"] or ""))
    gone = {t for t in targets if t.partition(".")[0] in PACKAGES and t not in known}
    assert not gone, f"{path} imports modules that do not exist: {sorted(gone)}"
    defines = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return Module(path, frozenset(targets & known.keys() - {name}), frozenset(named), frozenset(defines))


def layer_of(module: str) -> str:
    """The longest line of the table that a module stands under; "" for a package that is no more than a folder."""
    lines = [line for line in MAY_IMPORT if module == line or module.startswith(f"{line}.")]
    return max(lines, key=len, default="")


def forbidden() -> Iterator[str]:
    for name, module in modules().items():
        layer = layer_of(name)
        for target in sorted(module.uses - {name}):
            if (below := layer_of(target)) not in {layer, *MAY_IMPORT.get(layer, "").split()}:
                yield f"  {name} imports {target}: {layer or name} may not import {below or target}"


def table() -> str:
    width = max(map(len, MAY_IMPORT))
    return "\n".join(f"  {line:{width}}  {allowed or '-'}" for line, allowed in MAY_IMPORT.items())


def circles() -> Iterator[list[str]]:
    """Modules that import each other, directly or through others, as one circle each time one is closed."""
    state: dict[str, str] = {}

    def visit(name: str, way: list[str]) -> Iterator[list[str]]:
        state[name] = "open"
        for target in sorted(modules()[name].imports):
            if state.get(target) == "open":
                yield [*way[way.index(target) :], target]
            elif target not in state:
                yield from visit(target, [*way, target])
        state[name] = "done"

    for name in modules():
        if name not in state:
            yield from visit(name, [name])


def test_every_line_of_the_table_names_lines_above_it() -> None:
    above: set[str] = set()
    for line, allowed in MAY_IMPORT.items():
        assert set(allowed.split()) <= above, f"{line}: {sorted(set(allowed.split()) - above)} stand below it"
        above.add(line)
    known = modules()
    assert [line for line in MAY_IMPORT if line not in known] == []
    packages = {name for name, module in known.items() if module.path.name == "__init__.py"}
    assert [name for name in known if not layer_of(name) and name not in packages] == []


def test_imports_go_down() -> None:
    found = list(forbidden())
    assert not found, "\n".join(["imports that the table forbids:", *found, "the table, from bottom to top:", table()])


def test_no_modules_import_each_other() -> None:
    found = [" -> ".join(circle) for circle in circles()]
    assert not found, "\n".join(["modules that import each other:", *found])


def test_modules_named_in_strings_exist() -> None:
    known = modules()
    found = {name: {target for target, _ in module.named} for name, module in known.items() if module.named}
    assert found == NAMED_IN_STRINGS
    for name, module in known.items():
        for target, member in module.named:
            assert target in known, f"{name} names {target}, which does not exist"
            assert not member or member in known[target].defines, (
                f"{name} names {target}:{member}, which does not exist"
            )


def test_folders_have_few_entries() -> None:
    folders = {path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_dir()}
    folders |= {ROOT / package for package in PACKAGES}
    entries = {
        folder: [path for path in folder.iterdir() if path.name != "__pycache__"]
        for folder in folders
        if folder.name != "__pycache__"
    }
    crowded = {str(folder.relative_to(ROOT)): len(own) for folder, own in entries.items() if len(own) > MOST_ENTRIES}
    assert crowded == {}, f"more than {MOST_ENTRIES} entries in a folder"
