"""The programs of docs/pictures.md, in their order."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "pictures.md"


@pytest.mark.slow
def test_the_page_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for program in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(program, names)
    said = capsys.readouterr().out.splitlines()
    shown = re.findall(r"^    (runs .*(?:\n    .*)*)", text, re.MULTILINE)
    assert said == [line.strip() for line in shown[0].splitlines()]
    images = set(re.findall(r"images/pictures/([^)]*)", text))
    assert {path.name for path in tmp_path.iterdir()} == images
    for name in images:
        assert (PAGE.parent / "images" / "pictures" / name).stat().st_size < 300_000
