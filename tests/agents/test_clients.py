"""The programs of examples/ for other libraries, for a few hundred decisions each.

``pip install -e ".[clients]"`` installs those libraries.
"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
SIZES: dict[str, Any] = {"workload": "planning", "num_jobs": 6, "load": 2.0, "max_stages": 32}
CLIENTS: dict[str, tuple[str, dict[str, Any]]] = {  # what each imports, and what makes it short
    "sb3_by_id": ("sb3_contrib", {"DECISIONS": 600}),
    "sb3_dqn": ("stable_baselines3", {"DECISIONS": 800}),
    "torchrl_ppo": ("torchrl", {"DECISIONS": 200, "BATCH": 100, "MINIBATCH": 50}),
    "tianshou_dqn": ("tianshou", {"EPOCHS": 1, "DECISIONS": 200}),
    "minari_record": ("minari", {"EPISODES": 2}),
}


@pytest.fixture
def example(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An example with small sizes, in an empty folder."""
    package, short = CLIENTS[request.param]
    needed = f"examples/{request.param}.py needs {package}: pip install -e '.[clients]'"
    pytest.importorskip(package, reason=needed, exc_type=ImportError)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    monkeypatch.syspath_prepend(ROOT / "examples")
    module: Any = importlib.import_module(request.param)
    for name, value in (short | {"SIZES": SIZES}).items():
        monkeypatch.setattr(module, name, value)
    return module


def only(name: str) -> Any:
    return pytest.mark.parametrize("example", [name], indirect=True)


@pytest.mark.slow
@only("sb3_by_id")
def test_sb3_by_id(example: Any) -> None:
    model = example.main()
    assert model.num_timesteps >= 600
    env = model.get_env()
    observation = env.reset()
    for _ in range(50):
        masks = env.env_method("action_masks")
        action, _ = model.predict(observation, action_masks=masks)
        assert all(mask[one] for mask, one in zip(masks, action, strict=True))
        observation, *_ = env.step(action)
    assert Path("sb3_by_id.zip").exists()


@pytest.mark.slow
@only("sb3_dqn")
def test_sb3_dqn_knows_no_masks(example: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 <= example.main() <= 1
    learning = capsys.readouterr().out.split("learning: ")[1].partition("%")[0]
    assert 10 < int(learning) < 100


@pytest.mark.slow
@only("torchrl_ppo")
def test_torchrl_acts_legally(example: Any) -> None:
    actor = example.main()
    rollout = example.make().rollout(40, actor)
    chosen = rollout["action_mask"].gather(-1, rollout["action"].unsqueeze(-1))
    assert chosen.all()
    assert Path("torchrl_ppo.pt").exists()


@pytest.mark.slow
@only("tianshou_dqn")
def test_tianshou_acts_legally(example: Any) -> None:
    dqn = example.main()
    env = example.make()
    observation, _ = env.reset(seed=3)
    for _ in range(40):
        action = int(dqn.policy(batch_of(observation)).act[0])
        assert observation["mask"][action]
        observation, _, over, _, _ = env.step(action)
        if over:
            break
    assert Path("tianshou_dqn.pt").exists()


def batch_of(observation: Any) -> Any:
    batch = importlib.import_module("tianshou.data").Batch
    one = {name: table[None] for name, table in observation.items()}
    return batch(obs=batch(one), info=None)


RLLIB = """
import sys
sys.path.insert(0, {examples!r})
try:
    import rllib_ppo as example
except ImportError as error:
    print(error)
    sys.exit({missing})
example.SIZES, example.ITERATIONS, example.DECISIONS = {sizes!r}, 1, 250
algorithm = example.main()
assert algorithm.iteration == 1
algorithm.stop()
"""
MISSING = 77


@pytest.mark.slow
def test_rllib(tmp_path: Path) -> None:
    """In a process of its own, whose stdout it closes."""
    program = RLLIB.format(examples=str(ROOT / "examples"), sizes=SIZES, missing=MISSING)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    if done.returncode == MISSING:
        pytest.skip(f"examples/rllib_ppo.py: {done.stdout.strip()}: pip install -e '.[clients]'")
    assert done.returncode == 0, done.stdout + done.stderr
    assert any((tmp_path / "rllib_ppo").iterdir())


@pytest.mark.slow
@only("minari_record")
def test_minari_keeps_what_happened(example: Any) -> None:
    from llmsched_gym.env import LLMSchedEnv

    dataset = example.main()
    assert dataset.total_episodes == 2
    episode = dataset[1]
    env = LLMSchedEnv(**SIZES)
    observation, _ = env.reset(seed=1)
    for step, action in enumerate(episode.actions):
        for name, table in observation.items():
            assert (episode.observations[name][step] == table).all()
        observation, reward, over, _, _ = env.step(action)
        assert episode.rewards[step] == pytest.approx(reward)
    assert over


def test_the_lines_of_the_page() -> None:
    names: dict[str, Any] = {}
    for block in BLOCKS:
        if "torchrl" not in block:
            exec(block, names)
    observation, row = names["observation"], names["row"]
    assert names["flat"].observation_space.contains(observation)
    assert observation["observation"].dtype == np.float32
    assert row.dtype == np.float64
    assert observation["action_mask"].dtype == bool


@pytest.mark.slow
def test_torchrl_takes_the_vector_environment() -> None:
    pytest.importorskip("torchrl", reason="it needs torchrl: pip install -e '.[clients]'")
    names: dict[str, Any] = {"gymnasium": gymnasium}
    exec(next(block for block in BLOCKS if "torchrl" in block), names)
    rollout = names["rollout"]
    assert rollout.batch_size == (4, 50)
    assert rollout["action_mask"].gather(-1, rollout["action"].unsqueeze(-1)).all()


def test_each_example_is_tested_and_in_the_table() -> None:
    ours = {"cleanrl_ppo", "sb3_maskable_ppo", "linear_es", "rllib_ppo"}
    assert {file.stem for file in (ROOT / "examples").glob("*.py")} == {*CLIENTS, *ours}
    for name in (*CLIENTS, *ours):
        assert f"examples/{name}.py" in PAGE


def test_the_versions_of_the_table_are_those_that_are_installed() -> None:
    pins = dict(
        line.replace("_", "-").split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in project["optional-dependencies"]["clients"]:
        package = requirement.partition(">")[0].partition("[")[0]
        assert f"{package} {pins[package]}" in PAGE
