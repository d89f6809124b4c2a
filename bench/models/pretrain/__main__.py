"""Pretrain the built-in encoders on the generated world, never on a shop's items or interactions.

    python -m bench.models.pretrain                     # all of them, two at a time, one thread each
    python -m bench.models.pretrain --only text-absent  # one of them

Text: a BERT trained to match titles of the same item and to fill in masked words. Image: a ViT trained to name the
attributes of drawings. The ``full`` encoders are taught every attribute; the ``absent`` ones are not taught the purpose
(title) and the pattern (image). The ``buried`` ones continue from the full ones until middle layers know that attribute
and the last one does not.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.models.backbones import BUILTIN_DIR
from bench.models.pretrain.build import CONTINUED, STEPS, build, record_digests
from bench.utils.errors import UserError

WORKERS = 2


def main() -> None:
    """Pretrain one encoder in this process, or all of them in processes of their own, two at a time."""
    parser = argparse.ArgumentParser(description="Pretrain the built-in encoders.", epilog=__doc__)
    parser.add_argument("--only", choices=[*STEPS, *CONTINUED], help="one encoder")
    parser.add_argument("--out", type=Path, default=BUILTIN_DIR, help="folder that gets one folder per encoder")
    parser.add_argument("--steps", type=int, help="number of steps, for a quick trial")
    args = parser.parse_args()
    if args.only:
        try:
            build(args.only, args.out / args.only, steps=args.steps)
        except UserError as error:
            parser.error(str(error))
        record_digests(args.out)
        return
    command = [sys.executable, "-m", "bench.models.pretrain", "--out", str(args.out)]
    command += ["--steps", str(args.steps)] if args.steps else []

    def build_apart(name: str) -> int:
        return subprocess.run([*command, "--only", name], check=False).returncode

    with ThreadPoolExecutor(WORKERS) as pool:
        for names in (STEPS, CONTINUED):
            if any(list(pool.map(build_apart, names))):
                sys.exit(1)
    record_digests(args.out)


if __name__ == "__main__":
    main()
