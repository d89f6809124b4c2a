"""Worker whose cell does what ``body.py`` in its folder says, for tests of what happens around a cell."""

import sys
import types
from pathlib import Path


def main(arguments: list[str]) -> None:
    """Run the body with the names that bodies use."""
    folder = arguments[1]
    body = (Path(folder) / "body.py").read_text(encoding="utf-8")
    exec("import os, subprocess, sys, time\n" + body, {"folder": folder, "requested": float(arguments[2])})


if __name__ == "__main__":
    fake = types.ModuleType("bench.cell.run_cell")
    fake.main = main  # type: ignore[attr-defined]
    sys.modules["bench.cell.run_cell"] = fake
    from bench.launch import worker

    worker.main()
