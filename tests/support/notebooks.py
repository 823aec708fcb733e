"""Notebooks: executed by a kernel of this Python, in a folder of one's own.

``python tests/support/notebooks.py notebooks/01*.ipynb`` executes notebooks and keeps what they
show, without numbers of cells and times, so that a diff is what has changed.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

NAME = "this"


@contextmanager
def kernel(folder: Path) -> Iterator[str]:
    """The name of a kernel that runs this Python; all that Jupyter writes is in ``folder``."""
    spec = folder / "jupyter" / "kernels" / NAME
    spec.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    about = {"argv": command, "display_name": NAME, "language": "python"}
    (spec / "kernel.json").write_text(json.dumps(about))
    places = {
        "JUPYTER_PATH": str(folder / "jupyter"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "IPYTHONDIR": str(folder / "ipython"),
    }
    with mock.patch.dict(os.environ, places):
        yield NAME


def execute(notebook: Any, folder: Path, timeout_s: int = 600) -> None:
    """Execute the cells from top to bottom, with ``folder`` as the working directory."""
    from nbclient import NotebookClient

    where = {"metadata": {"path": str(folder)}}
    with TemporaryDirectory() as home, kernel(Path(home)) as name:
        NotebookClient(
            notebook, timeout=timeout_s, kernel_name=name, record_timing=False, resources=where
        ).execute()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02d}"
        if cell.cell_type == "code":
            cell.execution_count = None
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = None


def main() -> None:
    """Execute the notebooks that are named, and write them with what they show."""
    import nbformat

    for path in map(Path, sys.argv[1:]):
        notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
        with TemporaryDirectory() as folder:
            execute(notebook, Path(folder))
        path.write_text(nbformat.writes(notebook) + "\n")  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
