"""The environment alone: what works without the packages of the extras, and what is said else."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
MODULES = {"hydra-core": "hydra", "pillow": "PIL", "stable-baselines3": "stable_baselines3"}
WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
import importlib.util
_found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name in {names!r} else _found(name, *more)
"""


def extra_modules() -> set[str]:
    """What ``commands`` and ``train`` install, as modules."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    packages = [
        Requirement(line).name
        for extra in ("commands", "train", "report")
        for line in extras["optional-dependencies"][extra]
    ]
    names = {MODULES.get(name, name.replace("-", "_")) for name in packages}
    return names - {"llmsched_gym"}


def alone(program: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Run a program where no package of an extra is installed, and nothing is kept."""
    source = WITHOUT.format(names=extra_modules()) + textwrap.dedent(program)
    environment = {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "PATH": ""}
    return subprocess.run(
        [sys.executable, "-c", source],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_episodes_need_no_extra(tmp_path: Path) -> None:
    """The ten-line program, with a belief that ships, and many clusters at once."""
    done = alone(
        """
        import gymnasium
        import llmsched_gym
        from llmsched_gym.agents import make_policy

        env = gymnasium.make("LLMSched-v0", workload="planning", num_jobs=10, belief="bayes")
        policy = make_policy("llmsched")
        policy.reset(0)
        observation, info = env.reset(seed=0)
        over = False
        while not over:
            observation, reward, terminated, truncated, info = env.step(policy.act(observation))
            over = terminated or truncated
        print(info["jobs_completed"])
        envs = gymnasium.make_vec("LLMSched-v0", num_envs=3, num_jobs=5, max_stages=64)
        print(envs.reset(seed=0)[0]["action_mask"].shape)
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "10\n(3, 65)\n"


@pytest.mark.parametrize(
    ("program", "line"),
    [
        (
            "import llmsched_gym.commands.evaluate",
            "llmsched-gym: the commands need hydra, rich, pandas, matplotlib, pydantic, PIL: pip "
            'install "llmsched-gym[commands]"',
        ),
        (
            "from llmsched_gym.evaluation import compare",
            "ImportError: comparisons need pandas, matplotlib: pip install "
            '"llmsched-gym[commands]"',
        ),
        (
            "import llmsched_gym.plotting",
            'ImportError: figures need matplotlib: pip install "llmsched-gym[commands]"',
        ),
        (
            "from llmsched_gym.workload.validate import main; main(['sample'])",
            'validate: summaries need rich: pip install "llmsched-gym[commands]"',
        ),
        (
            "from llmsched_gym.cluster.calibration import main; main(['a.csv', '-o', 'b.yaml'])",
            'calibration: calibrations need rich, matplotlib: pip install "llmsched-gym[commands]"',
        ),
    ],
)
def test_what_needs_an_extra_says_so_in_a_line(program: str, line: str, tmp_path: Path) -> None:
    done = alone(program, tmp_path)
    assert done.stderr.splitlines()[-1] == line
    assert not list(tmp_path.glob("*.yaml"))
