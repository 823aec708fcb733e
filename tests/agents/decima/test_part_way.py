"""Part of the way to what tuning has led to: exactly that part, and nothing of other networks."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from llmsched_gym.agents.decima.network import DecimaNetwork
from llmsched_gym.agents.decima.part_way import part_way
from llmsched_gym.agents.learning import checkpoint
from support.noisy import noisy


def saved(path: Path, network: DecimaNetwork) -> Path:
    checkpoint.save(path, network.state_dict(), {"kind": "decima", "network": network.options})
    return path


def tuned() -> DecimaNetwork:
    network = DecimaNetwork()
    network.begin_as_resource_srtf()
    noise = np.random.default_rng(0).normal(size=len(network.preference()))
    network.preference().add_(torch.from_numpy(noise).float())
    return network


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_it_is_that_share(tmp_path: Path, share: float) -> None:
    first, last = DecimaNetwork(), tuned()
    first.begin_as_resource_srtf()
    part_way(saved(tmp_path / "last.safetensors", last), share, tmp_path / "part.safetensors")
    found, about = checkpoint.load(tmp_path / "part.safetensors")
    assert about["share"] == share
    begun = first.state_dict()
    for name, tensor in last.state_dict().items():
        wanted = begun[name] + share * (tensor - begun[name])
        torch.testing.assert_close(found[name], wanted, atol=1e-6, rtol=0)


def test_other_networks_and_shares_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "other.safetensors", noisy())
    with pytest.raises(ValueError, match="more than its preferences differs from resource_srtf"):
        part_way(path, 0.5, tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match="share: 1.5 is not a number between 0 and 1"):
        part_way(path, 1.5, tmp_path / "part.safetensors")
    command = [sys.executable, "-m", "llmsched_gym.agents.decima.part_way", "absent", "0.5", "x"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("part_way: checkpoint: no file 'absent'")
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "x").exists()
