"""The notebooks: what is kept of them, and that they run from top to bottom wherever they start."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from support.notebooks import execute

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LEARNS = "06_your_ppo_in_one_page"  # weights follow from the processor, too
MOST_BYTES = 1_000_000  # of a notebook, its pictures included
PLACES = re.compile(r"/work/|/tmp/|/home/|/root/|site-packages")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]


def shown(cell: Any) -> tuple[str, list[str]]:
    """The text that a cell shows, and the kinds of its outputs."""
    texts, kinds = [], []
    for output in cell.get("outputs", ()):
        if output.output_type == "stream":
            texts.append(output.text)
            kinds.append(output.name)
        else:
            kinds.extend(sorted(output.get("data", {output.output_type: ""})))
            if "image/png" not in output.get("data", {}):  # whose text is the size of a figure
                texts.append(output.get("data", {}).get("text/plain", ""))
    return "\n".join(texts), kinds


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_kept_is_clean(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)  # type: ignore[no-untyped-call]
    assert path.stat().st_size < MOST_BYTES
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith("# ")
    assert any(kind == "image/png" for cell in code(notebook) for kind in shown(cell)[1])
    for cell in code(notebook):
        text, kinds = shown(cell)
        assert cell.execution_count is None
        assert "execution" not in cell.metadata  # when it ran
        assert not {"stderr", "error"} & set(kinds), text
        assert not PLACES.search(text + cell.source), text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_lead_to_notebooks(path: Path) -> None:
    for cell in read(path).cells:
        for target in re.findall(r"\]\(([^)#]+\.ipynb)\)", cell.source):
            assert (FOLDER / target).is_file(), target


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_anywhere_and_shows_what_is_kept(path: Path, tmp_path: Path) -> None:
    """Numbers that have changed for a reason: ``tests/support/notebooks.py`` keeps new ones."""
    kept, played = read(path), read(path)
    execute(played, tmp_path)
    assert os.listdir(tmp_path) == []
    for before, after in zip(code(kept), code(played), strict=True):
        (text, kinds), (new_text, new_kinds) = shown(before), shown(after)
        assert new_kinds == kinds, before.source
        if path.stem != LEARNS:
            assert NUMBER.sub("", new_text).split() == NUMBER.sub("", text).split(), before.source
            new_numbers, numbers = (
                [float(one) for one in NUMBER.findall(one_text)] for one_text in (new_text, text)
            )
            assert new_numbers == pytest.approx(numbers, rel=0.02, abs=0.02), before.source


@pytest.mark.slow
def test_pgmpy_asks_for_no_widgets(tmp_path: Path) -> None:
    cell = nbformat.v4.new_code_cell(  # type: ignore[no-untyped-call]
        "import llmsched_gym.belief\nfrom pgmpy.models import DiscreteBayesianNetwork"
    )
    notebook = nbformat.v4.new_notebook(cells=[cell])  # type: ignore[no-untyped-call]
    execute(notebook, tmp_path)
    assert cell.outputs == []
