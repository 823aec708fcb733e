"""Episodes on servers that are kept as soon as they end: what was measured is not lost."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.evaluation.episodes import Episode
from llmsched_gym.files import replacing

LOGS = "logs"  # the folder of episodes in that of their results
_TABLES = ("jobs", "tasks")
_NUMBERS = ("makespan_s", "decisions", "decision_us")


def keep(folder: Path, episode: Episode) -> None:
    """Write the log of an episode to a folder, and beside it all else that is known of it.

    The second file is what :func:`kept` looks for: it is there only if both are whole.

    Raises
    ------
    OSError
        if they cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = _path(folder, episode.policy, episode.number)
    if episode.log is not None:
        episode.log.write(path.with_suffix(".jsonl"))
    arrays: dict[str, NDArray[Any]] = {name: np.array(getattr(episode, name)) for name in _NUMBERS}
    for table in _TABLES:
        columns = getattr(episode, table) or {}
        arrays |= {f"{table}.{name}": column.copy() for name, column in columns.items()}
    with replacing(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def kept(folder: Path, policy: str, number: int) -> Episode | None:
    """The episode that was kept in a folder, without its log, which stays there; None if none was.

    A file that cannot be read counts as none.
    """
    path = _path(folder, policy, number)
    tables: dict[str, dict[str, NDArray[Any]]] = {table: {} for table in _TABLES}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            numbers = {name: arrays[name].item() for name in _NUMBERS}
            for name in arrays.files:
                table, dot, column = name.partition(".")
                if dot:
                    tables[table][column] = arrays[name]
    except (OSError, ValueError, LookupError, EOFError, BadZipFile):
        return None
    return Episode(policy, number, tables["jobs"], tasks=tables["tasks"] or None, **numbers)


def is_kept(folder: Path, policy: str, number: int) -> bool:
    """Whether there is an episode in a folder."""
    return _path(folder, policy, number).exists()


def forget(folder: Path) -> None:
    """Remove the episodes that a folder keeps, and nothing else."""
    for suffix in (".npz", ".jsonl"):
        for path in folder.glob(f"*_episode[0-9]*{suffix}"):
            path.unlink()


def _path(folder: Path, policy: str, number: int) -> Path:
    """Of an episode; a label that is no name of a file everywhere is altered, a digest tells it."""
    name = re.sub("[^a-z0-9._-]", "-", policy)[:64]
    if name != policy:
        name += "-" + hashlib.sha256(policy.encode("utf-8", "backslashreplace")).hexdigest()[:8]
    return folder / f"{name}_episode{number}.npz"
