"""The programs of examples/, for a few hundred decisions each, and what they save."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmsched_gym.evaluation import compare

EXAMPLES = Path(__file__).parents[2] / "examples"
SIZES = {"workload": "planning", "num_jobs": 6, "load": 2.0, "max_stages": 64}


def test_they_fit_on_a_few_screens() -> None:
    for file in EXAMPLES.glob("*.py"):
        assert len(file.read_text(encoding="utf-8").splitlines()) < 150


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Imports an example, with small sizes, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)

    def make(name: str) -> Any:
        module = importlib.import_module(name)
        monkeypatch.setattr(module, "SIZES", SIZES)
        return module

    return make


@pytest.mark.slow
def test_cleanrl_ppo(example: Callable[[str], Any], capsys: pytest.CaptureFixture[str]) -> None:
    ours = example("cleanrl_ppo")
    ours.train(ours.Args(iterations=3, num_envs=4, steps=40, minibatch=64))
    costs = [line.split()[2] for line in capsys.readouterr().out.splitlines()]
    assert len(costs) == 3
    assert all(float(cost) > 0 for cost in costs)
    assert compared(ours.Learnt()) > 0


@pytest.mark.slow
def test_sb3_maskable_ppo(example: Callable[[str], Any]) -> None:
    ours = example("sb3_maskable_ppo")
    ours.train(320, "model.zip", num_envs=4, steps=40)
    assert compared(ours.Learnt("model.zip")) > 0


def compared(policy: Any) -> float:
    """The mean JCT of a policy that is compared with another, seconds."""
    result = compare({"learnt": policy, "fcfs": "fcfs"}, episodes=1, **SIZES)  # type: ignore[arg-type]
    assert result.summary["policy"].tolist() == ["learnt", "fcfs", "srtf_oracle", "srtf_own_oracle"]
    return float(result.summary["mean_jct_s"][0])
