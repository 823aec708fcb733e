"""Work in several processes: results, errors, and processes that are killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from llmsched_gym.processes import WorkerDied, map_processes
from support.sampled import sampled

BIG = b"x" * 4_000_000  # more than any pipe holds


class Unsendable(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(one)


def square(context: bytes, item: Any) -> Any:
    """What an item says: its square, an error, or the end of the process."""
    if item == "raise":
        raise KeyError("lost")
    if item == "unsendable":
        raise Unsendable(1, 2)
    if item == "exit":
        sys.exit(0)
    if item == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "terminate":
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)
    if item == "end":
        os._exit(0)
    if item == "wait":
        time.sleep(30)
    return item * item + len(context)


def nothing(_index: int) -> None:
    """Nothing to say."""


@pytest.mark.parametrize("processes", [1, 2, 9])
def test_results_are_in_order_and_each_is_told_once(processes: int) -> None:
    told: list[int] = []
    numbers = list(range(7))
    found = map_processes(square, BIG, numbers, processes, told.append)
    assert found == [number * number + len(BIG) for number in numbers]
    assert sorted(told) == numbers
    assert map_processes(square, BIG, [], processes, nothing) == []


@pytest.mark.parametrize(
    ("item", "error", "message"),
    [
        ("raise", KeyError, "lost"),
        ("unsendable", RuntimeError, "Unsendable: 1"),
        ("exit", SystemExit, "0"),
        ("die", WorkerDied, "was killed by signal 9, as happens where memory runs out"),
        ("end", WorkerDied, "ended with exit code 0"),
    ],
)
def test_what_is_raised_elsewhere_is_raised_here(
    item: str, error: type[BaseException], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        map_processes(square, BIG, [1, 2, item, "wait", 4], 2, nothing)
    if error is not WorkerDied:
        assert "in square" in str(caught.value.__cause__)
    assert psutil.Process().children(recursive=True) == tracker()


def tracker() -> list[psutil.Process]:
    """The process of Python's own that stays for later ones."""
    children = psutil.Process().children(recursive=True)
    return [one for one in children if "resource_tracker" in " ".join(one.cmdline())]


def test_what_cannot_be_sent_is_an_error() -> None:
    with pytest.raises((AttributeError, TypeError)):
        map_processes(square, lambda: None, [1, 2], 2, nothing)


KILLED_AT = (0.0, 0.02, 0.1, 0.3)


@sampled("delay_s", KILLED_AT, every=4)
def test_a_process_that_is_killed_at_its_birth_is_missed(delay_s: float) -> None:
    """It read nothing of what it was sent, which is more than a pipe holds."""

    def kill() -> None:
        known = {one.pid for one in tracker()}
        while True:
            for child in psutil.Process().children():
                if child.pid not in known and "resource_tracker" not in " ".join(child.cmdline()):
                    time.sleep(delay_s)
                    child.kill()
                    return

    killer = threading.Thread(target=kill)
    killer.start()
    begin = time.monotonic()
    with pytest.raises(WorkerDied, match="was killed by signal 9"):
        map_processes(square, BIG, [1, "wait", "wait"], 2, nothing)
    killer.join()
    assert time.monotonic() - begin < 20
    assert psutil.Process().children(recursive=True) == tracker()


PARENT = """
import sys
sys.path.insert(0, sys.argv[1])
from test_processes import BIG, nothing, square
from llmsched_gym.processes import map_processes
if __name__ == "__main__":
    map_processes(square, BIG, eval(sys.argv[2]), 2, nothing)
"""


def parent(folder: Path, items: list[Any]) -> list[str]:
    """The command of a process that does these items in two more."""
    (folder / "parent.py").write_text(PARENT)
    return [sys.executable, str(folder / "parent.py"), str(Path(__file__).parent), repr(items)]


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@sampled("delay_s", KILLED_AT, every=4)
def test_processes_end_with_the_one_that_started_them(tmp_path: Path, delay_s: float) -> None:
    command = parent(tmp_path, ["wait"] * 4)
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL) as running:
        process = psutil.Process(running.pid)
        children: list[psutil.Process] = []
        while len(children) < 3:  # two of them, and one of Python's
            children = process.children(recursive=True)
        time.sleep(delay_s)
        running.kill()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []


AT_IMPORT = """
import os, signal, sys
if "--multiprocessing-fork" in sys.orig_argv:
    os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_an_interrupt_is_no_matter_to_a_process_that_still_imports(tmp_path: Path) -> None:
    """A terminal sends Ctrl-C to every process, to those that Python has not set up, too."""
    (tmp_path / "sitecustomize.py").write_text(AT_IMPORT)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = parent(tmp_path, [1, 2, 3])
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_processes_heed_what_ends_processes() -> None:
    with pytest.raises(WorkerDied, match="was killed by signal 15"):
        map_processes(square, b"", ["terminate", "wait"], 2, nothing)
