"""Sweeps over settings: on this machine through joblib, on a Ray cluster through Ray."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher

from hydra_plugins.llmsched_ray_launcher import _mean_jct_s
from llmsched_gym.commands.evaluate import main

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


def test_a_sweeper_is_told_the_mean_jct(
    run_main: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those such as Optuna choose the next points by what the last ones came to."""
    told: list[Any] = []
    known = Plugins.instance().discover(Launcher)
    launcher: Any = next(one for one in known if one.__name__ == "BasicLauncher")
    launch = launcher.launch

    def listening(*arguments: Any, **named: Any) -> Any:
        told.extend(launch(*arguments, **named))
        return told

    monkeypatch.setattr(launcher, "launch", listening)
    assert run_main(main, *SMALL, "-m", "policy=sjf,fcfs", "cluster.engines=1")[0] == 0
    values = [float(one.return_value) for one in told]
    for path in Path("outputs").glob("*/summary.json"):
        policies = json.loads(path.read_text())["policies"]
        name = next(iter(policies))
        assert values[("sjf", "fcfs").index(name)] == policies[name]["mean_jct"]["value"]
    assert values[0] != values[1]


def test_what_a_point_on_ray_came_to_is_in_its_files() -> None:
    summary = {"policies": {"sjf": {"mean_jct": {"value": 2.5}}, "fcfs": {}}}
    assert _mean_jct_s({"summary.json": json.dumps(summary).encode()}) == 2.5
    assert _mean_jct_s({"held_out.csv": b"policy,mean_jct_s\ndecima,7.5\nsjf,9\n"}) == 7.5
    assert _mean_jct_s({"summary.json": b'{"settings": {}}'}) is None
    assert _mean_jct_s({}) is None


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
    context = ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
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
@pytest.mark.parametrize("launcher", ["joblib", "ray"])
def test_every_point_has_a_folder_of_its_own(tmp_path: Path, launcher: str) -> None:
    pytest.importorskip({"joblib": "hydra_plugins.hydra_joblib_launcher", "ray": "ray"}[launcher])
    command = [sys.executable, str(ROOT / "evaluate.py"), "policy=fcfs", *SMALL]
    sweep = ("-m", f"hydra/launcher={launcher}", "cluster.engines=1,4")
    done = subprocess.run(
        [*command, *sweep], capture_output=True, text=True, cwd=tmp_path, timeout=300
    )
    assert done.returncode == 0, done.stderr
    results = list(tmp_path.glob("outputs/*/summary.json"))
    assert len(results) == 2
    other = (*command, *sweep, "seed=7", f"output_dir={results[0].parent}")
    done = subprocess.run(other, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode != 0
    assert "overwrite=true replaces them" in done.stderr


@pytest.mark.slow
def test_a_bad_point_ends_the_sweep_with_one_line(tmp_path: Path, address: str) -> None:
    out = f"output_dir={tmp_path}/${{workload.load}}"
    sweep = ("-m", "hydra/launcher=ray", f"hydra.launcher.address={address}", "workload.load=-1,0")
    done = evaluate(*sweep, *SMALL, out)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "load" in line
    assert not list(tmp_path.iterdir())


BINDS = """
import ipaddress, psutil
from llmsched_gym.processes import start_ray
def is_loopback(ip):
    return ipaddress.ip_address(ip.removeprefix("::ffff:")).is_loopback
def nothing():
    return None
if __name__ == "__main__":
    ray = start_ray(None, 1)
    ray.get(ray.remote(num_cpus=1)(nothing).remote())
    mine = [psutil.Process(), *psutil.Process().children(recursive=True)]
    open_to_all = [
        (one.name(), found.laddr)
        for one in mine
        for found in one.net_connections("inet")
        if found.status == "LISTEN" and not is_loopback(found.laddr.ip)
    ]
    ray.shutdown()
    print(open_to_all)
"""


@pytest.mark.slow
def test_ray_on_this_machine_is_reached_from_it_alone(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    (tmp_path / "binds.py").write_text(BINDS)
    command = [sys.executable, str(tmp_path / "binds.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.stdout == "[]\n", done.stdout + done.stderr


def test_no_cluster_at_the_address() -> None:
    pytest.importorskip("ray")
    done = evaluate(
        "-m", "hydra/launcher=ray", "hydra.launcher.address=127.0.0.1:1", "policy=sjf,srtf"
    )
    assert done.returncode == 2
    assert "hydra.launcher.address: no Ray at '127.0.0.1:1'" in done.stderr
