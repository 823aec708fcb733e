"""docs/bring_your_own.md: its programs in their order, and its commands."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmsched_gym.commands import evaluate, train
from llmsched_gym.env.reward import REWARDS
from llmsched_gym.workload.described import DISTRIBUTIONS, FIELDS, read_description

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "bring_your_own.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = re.findall(r"^    (python .*)$", PAGE, re.MULTILINE)
MAINS = {"evaluate.py": evaluate.main, "train.py": train.main}
SMALL = {
    "evaluate.py": "episodes=1 num_jobs=4 processes=1 baselines=[fcfs] output_dir=out",
    "train.py": "num_jobs=6 logger=csv output_dir=out agent.iterations=1 "
    "agent.evaluation_episodes=1",
    "agent=decima": "agent.groups=2 agent.replicas=2 agent.tuning_iterations=0",
    "agent=ppo": "agent.environments=2 agent.steps=20",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of the page, as the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("youngest", "mine"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for kind, text in BLOCKS:
        named = re.match(r"# (\w+\.py)\n", text)
        if kind == "yaml":
            Path("helper.yaml").write_text(text)
        elif named:
            Path(named[1]).write_text(text)
    shutil.copytree(ROOT / "examples", "examples")
    return tmp_path


@pytest.mark.slow
def test_the_programs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sys.path.insert(0, str(folder))
    names: dict[str, Any] = {}
    for kind, text in BLOCKS:
        if kind == "python":
            exec(text, names)
    assert names["reward"] < 0
    assert "Youngest" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("line", [one for one in COMMANDS if " examples/" not in one.split("=")[0]])
def test_the_commands(folder: Path, run_main: Callable[..., Any], line: str) -> None:
    _, program, *arguments = shlex.split(line)
    if "+policy.file=ppo.pt" in arguments:
        names = runpy.run_path("examples/cleanrl_ppo.py")
        names["SIZES"].update(num_jobs=5, max_stages=64)
        names["train"](names["Args"](iterations=1, num_envs=2, steps=20))
    if "+policy.checkpoint=outputs/linear/best.safetensors" in arguments:
        made = next(one for one in COMMANDS if "agent=custom" in one)
        options = [one for one in shlex.split(made)[2:] if not one.startswith("output_dir=")]
        where = ("output_dir=outputs/linear", "agent.iterations=1", "agent.evaluation_episodes=1")
        assert run_main(train.main, *options, *where, "num_jobs=4", "logger=csv")[0] == 0
    small = shlex.split(SMALL[program] + " " + SMALL.get(arguments[0], ""))
    code, _, err = run_main(MAINS[program], *arguments, *small)
    assert code == 0, err
    assert any(Path("out").iterdir())


def test_the_examples_take_what_the_page_gives_them() -> None:
    lines = [one for one in COMMANDS if " examples/" in one.split("=")[0]]
    assert len(lines) == 2
    for line in lines:
        _, program, option, _ = shlex.split(line)
        text = (ROOT / program).read_text(encoding="utf-8")
        assert f'"{option}"' in text or f"    {option.removeprefix('--')}: int" in text


def test_the_tables_name_all() -> None:
    for name in REWARDS:
        assert f"| `{name}`" in PAGE
    for name in DISTRIBUTIONS:
        assert f"{{{name}: " in PAGE
    for kind, (required, optional) in FIELDS.items():
        assert f"| `{kind}: name` |" in PAGE
        assert all(f"`{field}" in PAGE for field in (*required, *optional))


def test_the_error_is_what_it_says(folder: Path) -> None:
    text = Path("helper.yaml").read_text()
    Path("helper.yaml").write_text(text.replace("{median: 0.4, sigma: 0.6, ", "{median: 0.4, "))
    with pytest.raises(ValueError) as raised:
        read_description("helper.yaml")
    told = str(raised.value).partition(" (see")[0]
    assert f"`{told}`" in PAGE
