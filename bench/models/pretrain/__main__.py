"""Pretrain the built-in backbones on the generated world, never on a shop's items or interactions.

python -m bench.models.pretrain                     # all of them, two at a time, one thread each
python -m bench.models.pretrain --only text-absent  # one of them
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.models.backbones import BUILTIN_DIR
from bench.models.pretrain.build import NAMES, build, record_digests

WORKERS = 2


def main() -> None:
    """Pretrain one backbone in this process, or all of them in processes of their own, two at a time."""
    parser = argparse.ArgumentParser(description="Pretrain the built-in backbones.", epilog=__doc__)
    parser.add_argument("--only", choices=NAMES)
    parser.add_argument("--out", type=Path, default=BUILTIN_DIR, help="folder that gets one folder per backbone")
    parser.add_argument("--steps", type=int, help="number of steps, for a quick trial")
    args = parser.parse_args()
    if args.only:
        build(args.only, args.out / args.only, steps=args.steps)
        return
    command = [sys.executable, "-m", "bench.models.pretrain", "--out", str(args.out)]
    command += ["--steps", str(args.steps)] if args.steps else []

    def build_apart(name: str) -> int:
        return subprocess.run([*command, "--only", name], check=False).returncode

    with ThreadPoolExecutor(WORKERS) as pool:
        codes = list(pool.map(build_apart, NAMES))
    if any(codes):
        sys.exit(1)
    record_digests(args.out)


if __name__ == "__main__":
    main()
