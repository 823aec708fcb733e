"""The code that a cell of a policy from elsewhere depends on."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmsched_gym.experiments.sources import fingerprint, sources

FILES = {
    "mine.py": "from agents_of import keys\nfrom llmsched_gym.agents.base import PriorityPolicy\n"
    "import numpy, json, absent_module_of_mine\n"
    "class Mine(PriorityPolicy):\n"
    "    def priority(self, observation):\n"
    "        from lazily import later\n"
    "        return later(keys.key(observation))\n",
    "agents_of/__init__.py": "",
    "agents_of/keys.py": "from . import deeper\nfrom .deeper import *\n"
    "def key(o): return deeper.x(o)\n",
    "agents_of/deeper.py": "import lazily\ndef x(o): return -o['stage_job']\n",
    "agents_of/unused.py": "",
    "lazily.py": "import mine\ndef later(x): return x\n",
    "absent_module_of_mine.py": "",
    "other.py": "",
}
USED = set(FILES) - {"agents_of/unused.py", "other.py"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    for name in ("mine", "lazily", "agents_of", "agents_of.keys", "agents_of.deeper", "other"):
        sys.modules.pop(name, None)
    sys.modules.pop("absent_module_of_mine", None)


def test_all_that_a_policy_imports_and_nothing_installed(folder: Path) -> None:
    importlib.import_module("mine")
    found = {path.relative_to(folder).as_posix() for path in sources(["mine"])}
    assert found == USED


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_change_of_what_is_imported_is_seen(folder: Path, name: str) -> None:
    before = fingerprint(["mine:Mine", "fcfs"])
    assert fingerprint(["fcfs", "mine:Mine"]) == before
    with (folder / name).open("a") as file:
        file.write("# changed\n")
    assert (fingerprint(["mine:Mine", "fcfs"]) != before) == (name in USED)


def test_policies_of_ours_need_no_walk(folder: Path) -> None:
    assert fingerprint(["fcfs"]) == fingerprint(["srtf", "fcfs"]) != fingerprint(["mine:Mine"])
