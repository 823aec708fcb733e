"""``train.py agent=custom``: a learner of one's own gets what those that ship get."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmsched_gym.agents import make_policy
from llmsched_gym.agents.learning.checkpoint import load, save
from llmsched_gym.commands import evaluate, train
from llmsched_gym.env import LLMSchedEnv
from llmsched_gym.testing import check_policy

ROOT = Path(__file__).parents[2]
JOBS = (
    *("workload=task_automation", "workload.jobs_per_application=40", "workload.load=2"),
    *("cluster.engines=1", "cluster.max_batch=4", "num_jobs=8"),
)
SHORT = ("agent=custom", *JOBS, "agent.evaluate_every=2", "agent.evaluation_episodes=2")
ES = ("agent.path=examples.linear_es:LinearES", "+agent.pairs=2")
FILES = ["best.safetensors", "held_out.csv", "learning_curve.png", "progress.csv"]
FILES += ["training.safetensors"]
OWN = """
from llmsched_gym.agents import CustomLearner

class Fine(CustomLearner):
    def __init__(self, checkpoint=None, size: int = 2):
        self.state = [0.0] * size
        self.load(checkpoint)
    def act(self, observation):
        return observation["action_mask"].argmax(-1)
    def iterate(self, rng):
        return {"decisions": 3}
    def state_dict(self):
        return {"state": self.state}
    def load_state_dict(self, state):
        if len(state["state"]) != len(self.state):
            raise ValueError("another size")

class NoCheckpoint(Fine):
    def __init__(self): pass

class Counts(Fine):
    def iterate(self, rng): return {"decisions": 3, "retrun": 4}

class Silent(Fine):
    def iterate(self, rng): return None

class Vague(Fine):
    def iterate(self, rng): return {"decisions": 2.5}

class Odd(Fine):
    def state_dict(self): return {"a": {}}

class One(Fine):
    def act(self, observation): return 0

class Bad(Fine):
    def iterate(self, rng): return 1 / 0
"""

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(run_main: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs the command in a folder with the examples and a module ``own``."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own", raising=False)
    shutil.copytree(ROOT / "examples", "examples")
    Path("own.py").write_text(OWN)

    def run(*arguments: str) -> tuple[int, str, str]:
        return run_main(train.main, *SHORT, "agent.iterations=2", "output_dir=out", *arguments)

    return run


def rows(file: str) -> list[dict[str, str]]:
    with Path(file).open() as lines:
        return list(csv.DictReader(lines))


def test_train_then_evaluate(command: Command, run_main: Command) -> None:
    code, out, err = command(*ES)
    assert code == 0, err
    assert sorted(os.listdir("out")) == sorted([*FILES, "tensorboard"])
    assert [row["policy"] for row in rows("out/held_out.csv")][:2] == ["custom", "fcfs"]
    table = rows("out/progress.csv")
    assert [bool(row["jct_s"]) for row in table] == [True, False, True]
    assert [bool(row["spread"]) for row in table] == [False, True, True]
    assert f"{min(float(row['jct_s']) for row in (table[0], table[2])):.1f}" in out
    meta = load(Path("out/best.safetensors"), "custom")[1]
    assert meta["network"] == {"path": "examples.linear_es:LinearES", "options": {"pairs": 2}}
    learnt = "policy.path=examples.linear_es:LinearES"
    code, _, err = run_main(
        evaluate.main,
        *(*JOBS, "policy=custom", learnt, "+policy.checkpoint=out/best.safetensors"),
        *("episodes=2", "processes=1", "output_dir=eval", "baselines=[]"),
    )
    assert code == 0, err
    assert learnt.partition("=")[2] in json.loads(Path("eval/summary.json").read_text())["policies"]
    policy = make_policy("examples.linear_es:LinearES", checkpoint="out/best.safetensors")
    best = load(Path("out/best.safetensors"), "custom")[0]["weights"].numpy()
    assert (policy.weights == best).all()  # type: ignore[attr-defined]
    check_policy(policy)


@pytest.mark.slow
def test_it_learns(command: Command) -> None:
    """Of nothing it is FCFS, which it leaves behind on the episodes that it is judged by."""
    code, _, err = command(
        *("agent.path=examples.linear_es:LinearES", "workload=planning", "num_jobs=50"),
        *("agent.iterations=5", "agent.evaluate_every=5", "agent.evaluation_episodes=16"),
        *("cluster.engines=4", "cluster.max_batch=8"),
    )
    assert code == 0, err
    means = {row["policy"]: float(row["mean_jct_s"]) for row in rows("out/held_out.csv")}
    assert float(rows("out/progress.csv")[0]["jct_s"]) == pytest.approx(means["fcfs"])
    assert means["custom"] < 0.97 * means["fcfs"]


def test_resume_goes_on_to_the_same(command: Command) -> None:
    assert command(*ES, "output_dir=whole", "logger=csv", "agent.iterations=4")[0] == 0
    ended = ("logger=csv", "agent.iterations=4", "minutes=1e-9")
    assert command(*ES, *ended)[0] == 0
    assert len(rows("out/progress.csv")) == 1
    assert command(*ES, *ended[:2], "resume=true")[0] == 0
    for name in ("best", "training"):
        tensors = [load(Path(one) / f"{name}.safetensors", KIND[name])[0] for one in FOLDERS]
        assert (tensors[0]["weights"] == tensors[1]["weights"]).all()
    code, _, err = command(*ES, *ended[:2], "resume=true", "agent.pairs=3")
    assert code == 2
    assert "made with agent.pairs=2, cannot go on with agent.pairs=3" in err


FOLDERS = ("out", "whole")
KIND = {"best": "custom", "training": "custom training"}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals are others there")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_is_ended_goes_on_to_the_same(tmp_path: Path, number: signal.Signals) -> None:
    def start(*arguments: str) -> subprocess.Popen[str]:
        given = (*SHORT, *ES, "agent.iterations=60", "logger=csv", "checkpoint_minutes=1e-6")
        return subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *given, *arguments],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    assert start("output_dir=whole").wait(timeout=300) == 0
    running = start("output_dir=out")
    while running.poll() is None and not (tmp_path / "out/training.safetensors").exists():
        time.sleep(0.01)
    time.sleep(np.random.default_rng().uniform(0, 0.5))  # anywhere
    running.send_signal(number)
    _, err = running.communicate(timeout=60)
    if number == signal.SIGTERM and running.returncode:
        assert running.returncode == 130
        assert err.splitlines()[-1].endswith("the same command with resume=true goes on")
    assert start("output_dir=out", "resume=true").wait(timeout=300) == 0
    for name, kind in KIND.items():
        tensors = [load(tmp_path / one / f"{name}.safetensors", kind)[0] for one in FOLDERS]
        assert (tensors[0]["weights"] == tensors[1]["weights"]).all()


# --- what is wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "agent.path: Missing mandatory value"),
        ("agent.path=own", "agent.path: 'own' is not of the form my_module:MyLearner"),
        ("agent.path=absent:Fine", "agent absent:Fine: cannot import 'absent'"),
        ("agent.path=own:Fin", "agent own:Fin: own has no subclass 'Fin' of llmsched_gym.agents."),
        ("agent.path=own:Fin", "CustomLearner (did you mean 'Fine'?)"),
        ("agent.path=own:Fine +agent.sise=3", "unknown option 'sise' (did you mean 'size'?); "),
        ("agent.path=own:Fine +agent.size=x", "agent own:Fine: can't multiply sequence by"),
        ("agent.path=own:Fine +agent.checkpoint=a", "agent.checkpoint: training begins anew"),
        ("agent.path=own:Fine agent.iterations=0", "agent.iterations: 0 is not a whole number"),
        ("agent.path=own:Fine rollout=ray", "rollout: a learner of one's own collects as it likes"),
        ("agent.path=own:NoCheckpoint", "its constructor needs an option checkpoint=None, which"),
        ("agent.path=own:Counts", "iterate() gives 'retrun' (did you mean 'return'?), which"),
        ("agent.path=own:Silent", "agent own:Silent: iterate() does not give names to numbers"),
        ("agent.path=own:Vague", "iterate() gives decisions=2.5, not how many there were"),
        ("agent.path=own:Odd", "state_dict(): 'a' is neither an array nor a tensor"),
        ("agent.path=own:One", "act() gives actions () to observations of (2,) clusters"),
    ],
)
def test_one_line(command: Command, arguments: str, message: str) -> None:
    code, out, err = command("logger=csv", *arguments.split())
    assert (code, out) == (2, ""), err
    assert err.splitlines()[-1].startswith("train.py: agent") or "rollout" in arguments
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err


def test_what_a_learner_raises_is_told_with_its_traceback(command: Command) -> None:
    code, out, err = command("logger=csv", "agent.path=own:Bad")
    assert (code, out) == (1, "")
    line = "train.py: agent own:Bad: iterate in iteration 1: ZeroDivisionError: division by zero"
    assert line in err.splitlines()
    assert 'own.py", line' in err
    assert load(Path("out/training.safetensors"), "custom training")[1]["iteration"] == 0


def test_a_checkpoint_of_something_else(command: Command) -> None:
    assert command("logger=csv", "agent.path=own:Fine")[0] == 0
    with pytest.raises(ValueError, match="best.safetensors: not of such a Fine: ValueError: anoth"):
        make_policy("own:Fine", checkpoint="out/best.safetensors", size=3)
    with pytest.raises(ValueError, match="absent: no such file"):
        make_policy("own:Fine", checkpoint="absent")
    tensors, meta = load(Path("out/training.safetensors"), "custom training")
    save(Path("out/training.safetensors"), {"other": tensors["state"]}, meta)
    code, _, err = command("logger=csv", "agent.path=own:Fine", "resume=true")
    assert code == 2
    assert "out/training.safetensors: cannot go on from it: 'state'" in err


def test_it_plays_alone(command: Command) -> None:
    """One observation as well as a batch."""
    env = LLMSchedEnv(num_jobs=4, workload="planning", strict=True)
    sys.path.insert(0, os.getcwd())
    policy: Any = make_policy("examples.linear_es:LinearES")
    observation, _ = env.reset(seed=0)
    over = False
    while not over:
        observation, _, over, _, info = env.step(policy.act(observation))
    assert info["mean_jct_s"] > 0
