"""Files that are written whole or not at all, by one run at a time."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

LOCK = ".lock"  # in a folder that a run writes to, as long as it does


class FolderInUse(OSError):
    """Another run is writing to the folder."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The name of a file to write beside ``path``; it takes its place if all goes well.

    Else it vanishes, and what was at ``path`` stays.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a folder to this run; it is made if need be, and goes if nothing is in it at the end.

    Raises
    ------
    FolderInUse
        if another run has it.
    OSError
        if nothing can be written there.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(20, "Not a directory", str(folder))
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise FolderInUse(f"another run is writing to {folder}") from None
        try:
            yield
        finally:
            with suppress(OSError):  # some systems do not remove what is open
                (folder / LOCK).unlink(missing_ok=True)
            lock.release()
    finally:
        for one in made:
            with suppress(OSError):  # there is something in it
                one.rmdir()


@contextmanager
def staged(output_dir: Path) -> Iterator[Path]:
    """A temporary folder whose files move to ``output_dir`` if all goes well, else vanish.

    Other files of ``output_dir`` stay.

    Raises
    ------
    OSError
        at once, if nothing can be written there.
    """
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    if output_dir.exists() and not output_dir.is_dir():
        raise NotADirectoryError(20, "Not a directory", str(output_dir))
    beside = output_dir if output_dir.is_dir() else output_dir.parent  # on the same file system
    folder = Path(tempfile.mkdtemp(prefix=f".{output_dir.name}-", dir=beside))
    try:
        yield folder
        output_dir.mkdir(exist_ok=True)
        for file in sorted(folder.iterdir()):
            file.replace(output_dir / file.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
