"""Sweeps over settings: on this machine through joblib, on a Ray cluster through Ray."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = [
    *("workload=planning", "workload.jobs_per_application=40", "baselines=[]"),
    *("episodes=2", "num_jobs=8", "processes=1"),
]


def evaluate(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(ROOT / "evaluate.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)


def results(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("jobs.csv")}


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The same points without a sweep."""
    folder = tmp_path_factory.mktemp("plain")
    for policy in ("sjf", "srtf"):
        done = evaluate(f"policy={policy}", *SMALL, f"output_dir={folder / policy}")
        assert done.returncode == 0, done.stderr
    return results(folder)


@pytest.mark.slow
def test_joblib_runs_a_sweep_on_this_machine(tmp_path: Path, one_by_one: dict[str, bytes]) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    out = f"output_dir={tmp_path}/${{policy.name}}"
    sweep = ("-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "policy=sjf,srtf")
    done = evaluate(*sweep, *SMALL, out)
    assert done.returncode == 0, done.stderr
    assert results(tmp_path) == one_by_one


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A Ray cluster of one machine."""
    ray = pytest.importorskip("ray")
    context = ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield context.address_info["gcs_address"]
    ray.shutdown()


@pytest.mark.slow
def test_ray_runs_the_same_sweep_on_a_cluster(
    tmp_path: Path, address: str, one_by_one: dict[str, bytes]
) -> None:
    out = f"output_dir={tmp_path}/${{policy.name}}"
    sweep = ("-m", "hydra/launcher=ray", f"hydra.launcher.address={address}", "policy=sjf,srtf")
    done = evaluate(*sweep, *SMALL, out)
    assert done.returncode == 0, done.stderr
    assert results(tmp_path) == one_by_one
    names = {path.name for path in (tmp_path / "sjf").iterdir()}
    assert names == {
        *("episodes.csv", "jobs.csv", "summary.json"),
        *("jct_cdf.png", "jct_by_policy.png"),
    }
    assert f"Files: {tmp_path / 'sjf'}" in done.stdout


@pytest.mark.slow
def test_a_bad_point_ends_the_sweep_with_one_line(tmp_path: Path, address: str) -> None:
    out = f"output_dir={tmp_path}/${{workload.load}}"
    sweep = ("-m", "hydra/launcher=ray", f"hydra.launcher.address={address}", "workload.load=-1,0")
    done = evaluate(*sweep, *SMALL, out)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "load" in line
    assert not list(tmp_path.iterdir())


def test_no_cluster_at_the_address() -> None:
    pytest.importorskip("ray")
    done = evaluate(
        "-m", "hydra/launcher=ray", "hydra.launcher.address=127.0.0.1:1", "policy=sjf,srtf"
    )
    assert done.returncode == 2
    assert "hydra.launcher.address: no Ray at '127.0.0.1:1'" in done.stderr
