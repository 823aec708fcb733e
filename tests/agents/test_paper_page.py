"""docs/paper.md shows lines of the code: those that are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_lines_beside_the_algorithm_are_those_of_the_code() -> None:
    page = (ROOT / "docs/paper.md").read_text(encoding="utf-8")
    code = (ROOT / "llmsched_gym/agents/llmsched.py").read_text(encoding="utf-8")
    lines = [line.strip() for line in code.splitlines()]
    blocks = re.findall(r"^```py\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        shown = [line.strip() for line in block.splitlines()]
        assert [line for line in shown if line not in lines] == []
