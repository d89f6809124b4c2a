"""Locks between open files: each open of a file counts as a holder of its own, as another process would."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bench.utils import locks


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "folder" / ".lock"
    with locks.exclusive(path), pytest.raises(BlockingIOError), locks.exclusive(path, wait=False):
        pass
    with locks.exclusive(path, wait=False):
        assert path.is_file()


def test_waiting_ends_with_the_holder(tmp_path: Path) -> None:
    path, order, held = tmp_path / ".lock", [], threading.Event()

    def second() -> None:
        held.set()
        with locks.exclusive(path):
            order.append("second")

    with locks.exclusive(path):
        thread = threading.Thread(target=second)
        thread.start()
        assert held.wait(10)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_a_lock_file_that_its_holder_removed_is_made_again(tmp_path: Path) -> None:
    path, entered = tmp_path / "folder" / ".lock", threading.Event()

    def second() -> None:
        with locks.exclusive(path):
            assert path.is_file()
            entered.set()

    with locks.exclusive(path):
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(0.2)  # long enough for the thread to wait for the lock
        shutil.rmtree(path.parent)
    thread.join(10)
    assert entered.is_set()


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    text = f"""
import sys, time
from pathlib import Path
from bench.utils import locks
with locks.exclusive(Path({str(path)!r})):
    print("held", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(BlockingIOError), locks.exclusive(path, wait=False):
            pass
        process.kill()
    with locks.exclusive(path, wait=False):
        pass


def test_readers_exclude_whoever_would_change_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    with path.open("rb") as one, path.open("rb") as other:
        locks.share(one)
        locks.share(other)
        with locks.unused([path]) as free:
            assert not free
    with locks.unused([path, tmp_path / "absent"]) as free, path.open("r+b") as late:
        assert free
        assert not locks.try_exclusive(late)


def test_a_replaced_file_is_another(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    with path.open("rb") as file:
        assert locks.is_at(file, path)
        path.rename(tmp_path / "moved")
        assert not locks.is_at(file, path)
        path.write_bytes(b"x")
        assert not locks.is_at(file, path)
