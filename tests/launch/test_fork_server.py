"""Forks of the server: what they are given, and that with the CUDA driver loaded the program starts anew."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.launch import fork_server

ROOT = Path(__file__).parents[2]
# The body of a fork, without the server: its streams are those of this process.
FORK = """
import os, sys
from multiprocessing.connection import Connection
from bench.launch import fork_server
fork_server.has_cuda_driver = lambda: sys.argv[1] == "loaded"
streams = [Connection(os.dup(number)) for number in range(3)]
fork_server._run("told", ["a", "b"], streams, dict(os.environ, OMP_NUM_THREADS="1", TOLD="yes"))
"""
TOLD = """
import os, sys
again = "torch" not in sys.modules
import torch
print(again, sys.argv[1:], os.environ["TOLD"], torch.get_num_threads(), os.getsid(0) == os.getpid())
"""


@pytest.mark.parametrize("mkl", [{}, {"MKL_NUM_THREADS": "2"}])
def test_a_fork_is_as_the_program_that_starts_anew_with_the_driver_loaded(mkl: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "told.py").write_text(TOLD)
    paths = os.pathsep.join((str(ROOT), str(tmp_path)))
    variables = {name: value for name, value in os.environ.items() if name != "MKL_NUM_THREADS"}
    variables |= {"PYTHONPATH": paths, "OMP_NUM_THREADS": "2"} | mkl

    def told(driver: str) -> str:
        command = [sys.executable, "-c", FORK, driver]
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, env=variables, check=True).stdout

    fork, program = told("absent").split(), told("loaded").split()
    assert (fork[0], program[0]) == ("False", "True")
    assert fork[1:] == program[1:]
    assert fork[1:4] + fork[-1:] == ["['a',", "'b']", "yes", "True"]


def test_the_driver_is_seen_among_the_files_in_memory(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    line = "7f10-7f20 r-xp 00000000 08:01 42    /usr/lib/x86_64-linux-gnu/{}\n"
    maps.write_text(line.format("libcudart.so.12"))
    assert not fork_server.has_cuda_driver(maps)
    maps.write_text(line.format("libcudart.so.12") + line.format("libcuda.so.550.54"))
    assert fork_server.has_cuda_driver(maps)
    assert not fork_server.has_cuda_driver(tmp_path / "absent")
