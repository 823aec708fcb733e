"""Files that are written whole or not at all: whatever goes wrong, and whenever."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from llmsched_gym import files
from llmsched_gym.files import FolderInUse, locked, staged

NAMES = ("a.csv", "b.csv", "deep/c.csv", "summary.json")
OLD = {name: f"old {name}" for name in (*NAMES, "notes.txt", "deep/notes.txt")}
NEW = OLD | {name: f"new {name}" for name in NAMES}


def fill(folder: Path, contents: dict[str, str]) -> None:
    for name, text in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def write(folder: Path) -> None:
    with locked(folder), staged(folder) as new:
        fill(new, {name: NEW[name] for name in NAMES})


def fails_at(call: int, *, forever: bool, error: BaseException) -> Callable[..., Any]:
    """A rename that raises at its n-th call, or from then on, as in a process that is killed."""
    rename, calls = os.replace, 0

    def replace(self: Path, to: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == call or (forever and calls > call):
            raise error
        rename(self, to)
        return to

    return replace


def test_new_files_take_the_place_of_old_ones_and_others_stay(tmp_path: Path) -> None:
    fill(tmp_path / "out", OLD)
    write(tmp_path / "out")
    assert contents(tmp_path / "out") == NEW
    write(tmp_path / "new/out")
    assert contents(tmp_path / "new/out") == {name: NEW[name] for name in NAMES}


@pytest.mark.parametrize("call", range(1, 2 * len(NAMES) + 2))
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("a file that is open elsewhere")])
def test_what_fails_half_way_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int, error: BaseException
) -> None:
    fill(tmp_path / "out", OLD)
    replace = fails_at(call, forever=False, error=error)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        patch.setattr(Path, "rename", replace)
        with pytest.raises(type(error)):
            write(tmp_path / "out")
    assert contents(tmp_path / "out") == OLD
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("a.csv", "b.csv", "deep", "notes.txt", "summary.json")
    }


@pytest.mark.parametrize("call", range(1, 2 * len(NAMES) + 2))
def test_what_a_kill_leaves_half_way_is_undone_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    fill(tmp_path / "out", OLD)
    killed = fails_at(call, forever=True, error=SystemError("killed"))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        patch.setattr(Path, "rename", killed)
        patch.setattr(shutil, "rmtree", lambda *_args, **_named: None)
        with pytest.raises(SystemError):
            write(tmp_path / "out")
    with locked(tmp_path / "out"):
        pass
    assert contents(tmp_path / "out") == OLD


def test_a_kill_after_the_moment_that_counts_undoes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "out", OLD)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_args, **_named: None)
        write(tmp_path / "out")
    assert len(contents(tmp_path / "out")) > len(NEW)
    with locked(tmp_path / "out"):
        pass
    assert contents(tmp_path / "out") == NEW


def write_and_fail(folder: Path) -> None:
    with locked(folder), staged(folder) as new:
        fill(new, OLD)
        raise KeyError


def test_nothing_is_left_of_what_was_not_written(tmp_path: Path) -> None:
    for folder in (tmp_path / "one/two/out", tmp_path / "one/out"):
        with pytest.raises(KeyError):
            write_and_fail(folder)
        assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError), locked(tmp_path / "file"):
        pass


HOLDS = """
import sys, time
from pathlib import Path
from llmsched_gym import files
from llmsched_gym.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_is_for_one_run_until_that_is_dead(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    command = [sys.executable, "-c", HOLDS, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        (folder / ".a.csv.1.part").touch()
        with pytest.raises(FolderInUse, match=r"another run is writing to .*out$"), locked(folder):
            pass
        assert (folder / ".a.csv.1.part").exists(), "it may be the other run's"
        other.kill()
    with locked(folder):
        assert not (folder / ".a.csv.1.part").exists()
        with pytest.raises(FolderInUse), locked(folder):
            pass
    assert list(folder.iterdir()) == []


def interrupted_at(step: int) -> Callable[..., Any]:
    """A trace function that raises Ctrl-C before the n-th line that is run of files.py."""
    steps = 0

    def trace(frame: Any, event: str, _argument: Any) -> Any:
        nonlocal steps
        steps += event == "line" and frame.f_code.co_filename == files.__file__
        if event == "line" and steps == step:
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    return trace


def test_an_interrupt_before_there_is_a_folder_to_write_to_leaves_nothing(tmp_path: Path) -> None:
    kept, step, begun = sys.gettrace(), 0, False
    while not begun:
        step += 1
        with suppress(KeyboardInterrupt):
            sys.settrace(interrupted_at(step))
            try:
                with locked(tmp_path / "new/out"), staged(tmp_path / "new/out"):
                    sys.settrace(None)
                    begun = True
            finally:
                sys.settrace(kept)
        assert not list(tmp_path.iterdir()), f"interrupted at line {step} of what is run"
    assert step > 10
