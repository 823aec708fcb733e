"""A server in a process of its own, which ends with the one that started it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO

from llmsched_gym.errors import printable

START_S = 120.0  # a large model is read and warmed up
END_S = 5.0
WHILE_READ = "--while-stdin"  # the server ends when its stdin does
_READY = re.compile(r"(http://\S+) is ready\b")


class NotServed(RuntimeError):
    """A server that did not start: one line that says why."""


@dataclass(frozen=True, slots=True)
class Served:
    """A server that runs.

    Parameters
    ----------
    url : where it is.
    pid : its process, in which it computes.
    slots : requests that it serves at once.
    """

    url: str
    pid: int
    slots: int


def ready_line(url: str, what: str) -> str:
    """What a server says when it is ready, and what is waited for."""
    return f"{url} is ready: {what}"


@contextmanager
def started(command: list[str], slots: int, given: bytes = b"") -> Iterator[Served]:
    """Start a server and end it.

    Parameters
    ----------
    command : arguments of this Python, e.g. ``["-m", "llmsched_gym.testbed.serve", ...]``; with
        ``WHILE_READ`` among them, or another way to end with its stdin.
    slots : of the server.
    given : what it reads from stdin at first.

    Raises
    ------
    NotServed
        if it does not become ready.
    """
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with suppress(BrokenPipeError):  # it has ended, and stderr says why
                process.stdin.write(given)
                process.stdin.flush()
            yield Served(_wait(process, process.stdout, errors), process.pid, slots)
        finally:
            process.terminate()
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:  # e.g. stopped by SIGSTOP
                process.kill()
                process.wait()
            process.stdout.close()
            with suppress(BrokenPipeError):
                process.stdin.close()


def _wait(process: subprocess.Popen[bytes], said: IO[bytes], errors: IO[bytes]) -> str:
    """The URL that a server tells when it is ready."""
    late = threading.Timer(START_S, process.kill)
    late.start()
    try:
        for line in said:
            if found := _READY.match(line.decode("utf-8", "replace")):
                return found[1]
    finally:
        late.cancel()
    process.wait()
    errors.seek(0)
    told = errors.read().decode("utf-8", "replace").split("\n")
    why = next((line for line in reversed(told) if line.strip()), "")
    raise NotServed(printable(why) or f"the server ended with code {process.returncode}")


def end_quietly() -> None:
    """Let this process end at once, with code 0, when SIGTERM or Ctrl-C comes."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: os._exit(0))


def end_with_stdin() -> None:
    """End this process when its stdin ends, as it does when the one that started it is gone."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
