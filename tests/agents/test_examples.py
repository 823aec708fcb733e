"""The programs of examples/, for a few hundred decisions each, and what they save."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from llmsched_gym.evaluation import compare

EXAMPLES = Path(__file__).parents[2] / "examples"
SIZES = {"workload": "planning", "num_jobs": 6, "load": 2.0, "max_stages": 64}


def test_they_fit_on_a_few_screens() -> None:
    for file in EXAMPLES.glob("*.py"):
        assert len(file.read_text(encoding="utf-8").splitlines()) < 150


def example(name: str) -> dict[str, Any]:
    """The names of an example, whose sizes are made small."""
    names = runpy.run_path(str(EXAMPLES / f"{name}.py"))
    names["SIZES"].clear()
    names["SIZES"].update(SIZES)
    return names


@pytest.mark.slow
def test_cleanrl_ppo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = example("cleanrl_ppo")
    names["train"](names["Args"](iterations=3, num_envs=4, steps=40, minibatch=64))
    costs = [line.split()[2] for line in capsys.readouterr().out.splitlines()]
    assert len(costs) == 3
    assert all(float(cost) > 0 for cost in costs)
    assert compared(names["Learnt"]()) > 0


@pytest.mark.slow
def test_sb3_maskable_ppo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "<run_path>", sys)  # where cloudpickle looks for its classes
    names = example("sb3_maskable_ppo")
    names["train"](320, "model.zip", num_envs=4, steps=40)
    assert compared(names["Learnt"]("model.zip")) > 0


def compared(policy: Any) -> float:
    """The mean JCT of a policy that is compared with another, seconds."""
    result = compare({"learnt": policy, "fcfs": "fcfs"}, episodes=1, **SIZES)  # type: ignore[arg-type]
    assert result.summary["policy"].tolist() == ["learnt", "fcfs", "srtf_oracle"]
    return float(result.summary["mean_jct_s"][0])
