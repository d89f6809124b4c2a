"""Methods by file and by entry point: what is taken, and what is refused in one line."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.config.matrix import MethodConfig, build_method
from bench.utils.errors import UserError
from methods import registry
from methods.base import method_class
from methods.loading import load_file
from methods.registry import REGISTRY, installed, known

GOOD = '''"""A file."""
from dataclasses import dataclass
from methods.base import Adaptation, Count, EncoderMethod, register


@register("mine")
@register("mine-wide", rank=9)
@dataclass(frozen=True)
class Mine(EncoderMethod):
    """First line.

    Second.
    """

    rank: Count = 3

    def adapt(self, encoder):
        return Adaptation([], 1.0, 1)
'''


def write(tmp_path: Path, text: str, name: str = "my.py") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_is_run_and_its_methods_are_known(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    loaded = load_file(path)
    assert set(loaded.names) == {"mine", "mine-wide"}
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert loaded.path == path
    assert known()["mine"].summary == "First line"
    assert known()["mine"].origin == str(path)
    assert list(known())[: len(REGISTRY)] == list(REGISTRY)
    assert build_method(MethodConfig("x", "mine", {"rank": 2}), "t").rank == 2
    assert known()["mine-wide"].preset == {"rank": 9}
    assert "mine" not in REGISTRY


def test_a_file_that_is_run_again_replaces_what_it_registered(tmp_path: Path) -> None:
    load_file(write(tmp_path, GOOD))
    load_file(write(tmp_path, GOOD))
    load_file(write(tmp_path, GOOD.replace('"mine"', '"other"').replace("= 3", "= 5")))
    assert {name for name, entry in known().items() if entry.origin} == {"other", "mine-wide"}
    assert method_class("other")().rank == 5  # type: ignore[attr-defined]


def test_what_a_file_prints_goes_to_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_file(write(tmp_path, GOOD + "print('hello')\n"))
    assert capsys.readouterr() == ("", "hello\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD.replace("rank: Count = 3", "rank: Count = = 3"), "my.py, line 15: invalid syntax"),
        ("import torch\n\nx = 1 / 0\n", "my.py, line 3: ZeroDivisionError: division by zero"),
        ("import nothing_of_this_name\n", "my.py, line 1: ModuleNotFoundError: No module named"),
        ("raise SystemExit\n", "my.py, line 1: SystemExit"),
        ("x = 1\n", 'my.py: registers no method; put @register("a-name")'),
        ("", "my.py: registers no method"),
        (GOOD.replace('"mine"', '"lora"'), "line 6: a method 'lora' exists already (built in); choose another name"),
        (GOOD.replace('"mine"', '"../mine"'), "method name '../mine'"),
        (GOOD.replace("@dataclass(frozen=True)\n", ""), "class Mine is not a dataclass: put @dataclass"),
        (GOOD.replace("def adapt", "def adopt"), "class Mine does not define adapt"),
        (GOOD.replace("(EncoderMethod)", ""), "Mine must be a class at the top level of its file, derived from"),
        ("x = '\0'", "my.py"),
    ],
)
def test_a_file_that_is_wrong_is_told_in_one_line(text: str, said: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        load_file(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not registry.FROM_FILES


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.py: No such file"):
        load_file(tmp_path / "nothing.py")
    with pytest.raises(UserError, match="Is a directory"):
        load_file(tmp_path)


def test_two_files_with_one_name(tmp_path: Path) -> None:
    load_file(write(tmp_path, GOOD))
    with pytest.raises(UserError, match=r"other\.py, line .: a method 'mine-wide' exists already"):
        load_file(write(tmp_path, GOOD, "other.py"))
    assert {entry.origin for entry in registry.FROM_FILES.values()} == {str(tmp_path / "my.py")}


def test_other_content_than_recorded_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, GOOD)
    digest = load_file(path).sha256
    load_file(path, digest)
    write(tmp_path, GOOD + "print('run')\n")
    with pytest.raises(UserError, match=r"my\.py: has changed since"):
        load_file(path, digest)
    assert capsys.readouterr().err == ""


class TestInstalled:
    """A package that is installed the way pip does it: a folder with its metadata beside the module."""

    @pytest.fixture
    def package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        write(
            tmp_path, GOOD.replace('@register("mine")\n', "").replace('"mine-wide", rank=9', '"announced"'), "theirs.py"
        )
        info = tmp_path / "theirs-1.2.dist-info"
        info.mkdir()
        write(info, "Metadata-Version: 2.1\nName: theirs\nVersion: 1.2\n", "METADATA")
        write(info, "[iisan_bench.methods]\nannounced = theirs:Mine\n", "entry_points.txt")
        monkeypatch.syspath_prepend(str(tmp_path))
        installed.cache_clear()
        yield info
        installed.cache_clear()
        sys.modules.pop("theirs", None)

    def test_is_known_without_being_imported(self, package: Path) -> None:
        assert known()["announced"].summary == "from theirs 1.2"
        assert "theirs" not in sys.modules
        # Imported, its @register says nothing new.
        assert method_class("announced").__module__ == "theirs"
        assert known()["announced"].origin == "theirs 1.2"

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("lora = theirs:Mine", "entry point 'lora' of theirs 1.2: a method with this name exists"),
            ("x = theirs", "entry point 'x' of theirs 1.2: expected module:Class, got 'theirs'"),
        ],
    )
    def test_what_cannot_be_taken_names_the_package(self, line: str, said: str, package: Path) -> None:
        write(package, f"[iisan_bench.methods]\n{line}\n", "entry_points.txt")
        with pytest.raises(UserError, match=said):
            known()

    def test_what_cannot_be_had(self, package: Path) -> None:
        write(package, "[iisan_bench.methods]\nx = theirs:Nobody\ny = nowhere:X\n", "entry_points.txt")
        with pytest.raises(UserError, match=r"method x \(theirs 1.2\): Nobody must be a class"):
            method_class("x")
        with pytest.raises(
            UserError, match=r"method y \(theirs 1.2\): nowhere cannot be imported: ModuleNotFoundError"
        ):
            method_class("y")
