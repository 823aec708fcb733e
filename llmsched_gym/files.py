"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
