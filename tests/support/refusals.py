"""How a command refuses bad input."""

from __future__ import annotations

from pathlib import Path


def refused(folder: Path, code: int, out: str, err: str) -> str:
    """The one line that evaluate.py has said, with nothing written to the folder it ran in."""
    assert (code, out) == (2, "")
    (line,) = err.strip().splitlines()
    assert line.startswith("evaluate.py: ")
    assert not list(folder.iterdir()), "nothing is written"
    return line
