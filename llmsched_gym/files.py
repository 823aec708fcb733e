"""Files that are written whole or not at all, by one run at a time."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

LOCK = ".lock"  # in a folder that a run writes to, as long as it does
UNFINISHED = ".unfinished-"  # what folders of files that are not in place yet begin with


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

    What a run that was killed left there is cleaned up: see :func:`staged`.

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
    lock = FileLock(folder / LOCK)  # an interrupt in its making would be told twice: not later
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _take(lock, folder)
        _clean(folder)
        yield
    finally:
        if lock.is_locked:
            with suppress(OSError):  # some systems do not remove what is open
                (folder / LOCK).unlink(missing_ok=True)
            lock.release()
        for one in made:
            with suppress(OSError):  # there is something in it
                one.rmdir()


def _take(lock: BaseFileLock, folder: Path) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise FolderInUse(f"another run is writing to {folder}") from None


def _clean(folder: Path) -> None:
    for part in folder.glob(".*.part"):
        part.unlink(missing_ok=True)
    for root in folder.glob(f"{UNFINISHED}*"):
        _undo(root, folder)
        shutil.rmtree(root, ignore_errors=True)


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A temporary folder whose files move to ``folder``, which exists, if all goes well.

    Else they vanish. All move or none does: the files that were there are put aside, the new ones
    are moved in, and one rename, of ``old`` to ``done``, is the moment from which the new ones
    count. What goes wrong before is undone, and a run that is killed before is undone by the next
    :func:`locked` on the folder. (Swapping whole folders would take a single rename, but would
    carry off the user's other files: these stay.)

    Raises
    ------
    OSError
        if the files cannot be moved; those that were there are in place then.
    """
    root = folder / f"{UNFINISHED}{secrets.token_hex(4)}"  # named first: made, it must vanish
    try:
        (root / "new").mkdir(parents=True)
        yield root / "new"
        _put(root, folder)
    finally:
        if not (root / "old").exists():  # else undoing failed as well: the next run tries again
            shutil.rmtree(root, ignore_errors=True)


def _put(root: Path, folder: Path) -> None:
    """Move the files in ``new`` to the folder."""
    new, old = root / "new", root / "old"
    names = sorted(str(path.relative_to(new)) for path in new.rglob("*") if not path.is_dir())
    (root / "names").write_text(json.dumps(names), encoding="utf-8")
    for path in (root / "names", *(new / name for name in names)):
        with path.open("rb+") as file:  # on the disk, before a name leads to it
            os.fsync(file.fileno())
    old.mkdir()
    try:
        for name in names:
            _move(folder / name, old / name)
            _move(new / name, folder / name)
        old.rename(root / "done")
    except BaseException:
        _undo(root, folder)
        raise


def _undo(root: Path, folder: Path) -> None:
    """Put back what was there before :func:`_put`, wherever it ended; it may be tried again."""
    new, old = root / "new", root / "old"
    if not old.exists():  # nothing has been moved, or everything
        return
    for name in json.loads((root / "names").read_text(encoding="utf-8")):
        if not (new / name).exists():
            _move(folder / name, new / name)
        _move(old / name, folder / name)
    shutil.rmtree(old)


def _move(path: Path, to: Path) -> None:
    """Move what is at a path, if there is something."""
    if os.path.lexists(path):
        to.parent.mkdir(parents=True, exist_ok=True)
        path.replace(to)
