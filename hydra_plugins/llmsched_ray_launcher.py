"""Hydra sweeps on Ray: every point of a sweep is a task of its own, on any machine of a cluster.

    python evaluate.py -m hydra/launcher=ray hydra.launcher.address=auto workload.load=0.9,1.3,2.0

Each task runs the command in a process of its own and sends its files home, so that the machines
need not share a disk: only the package, and what ``path`` options name, must be on each.
(The package hydra-ray-launcher installs beside this Ray as well. This one is kept because it sends
files home, and tells a sweeper what each point came to.)
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from llmsched_gym.errors import one_line
from llmsched_gym.files import locked, staged
from llmsched_gym.processes import start_ray


class SweepError(ValueError):
    """A point of a sweep that failed, with what its command said."""


OPTIONS = {
    "_target_": "hydra_plugins.llmsched_ray_launcher.RayLauncher",
    "address": None,  # of a Ray cluster, or auto; null: one on this machine, for this sweep
    "num_cpus": 1,  # that each task takes
}
ConfigStore.instance().store(group="hydra/launcher", name="ray", node=OPTIONS)


class RayLauncher(Launcher):  # type: ignore[misc]
    """Runs the points of a sweep as Ray tasks; its options are ``OPTIONS``."""

    def __init__(self, address: str | None, num_cpus: float) -> None:
        self.address, self.num_cpus = address, num_cpus

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called by Hydra before :meth:`launch`."""
        self.context, self.config = hydra_context, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run every point, print what each prints as it ends, and write its files.

        Raises
        ------
        SweepError
            if Ray is not installed or cannot be reached, or a point fails.
        """
        setup_globals()
        loader = self.context.config_loader
        configs = [loader.load_sweep_config(self.config, list(row)) for row in job_overrides]
        for config in configs:
            _check_home(config)
        try:
            ray = start_ray(self.address)
        except ImportError as error:
            raise SweepError(f"hydra/launcher=ray: {error}") from error
        except OSError as error:
            raise SweepError(f"hydra.launcher.address: {error}") from error
        reached: dict[tuple[str, ...], float | None] = {}
        try:
            remote = ray.remote(num_cpus=self.num_cpus)(run_command)
            module = f"llmsched_gym.commands.{self.config.hydra.job.name}"
            points = {
                remote.remote(module, list(row)): (row, config)
                for row, config in zip(job_overrides, configs, strict=True)
            }
            waiting = list(points)
            while waiting:
                (done,), waiting = ray.wait(waiting)
                row, _ = points[done]
                reached[tuple(row)] = _bring_home(ray.get(done), *points[done])
        finally:
            ray.shutdown()
        returns = [
            JobReturn(overrides=row, cfg=config, status=JobStatus.COMPLETED)
            for row, config in zip(job_overrides, configs, strict=True)
        ]
        for one in returns:
            one.return_value = reached[tuple(one.overrides or ())]
        return returns


def run_command(module: str, arguments: list[str]) -> tuple[int, str, dict[str, bytes]]:
    """Run ``python -m module`` with these arguments and an output folder of its own.

    Returns its exit status, what it printed, and the contents of its files by relative path.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        command = [sys.executable, "-m", module, *arguments, f"output_dir={out}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        files = {
            str(path.relative_to(out)): path.read_bytes()
            for path in sorted(out.rglob("*"))
            if path.is_file()
        }
    return done.returncode, done.stdout if done.returncode == 0 else done.stderr, files


def _check_home(config: DictConfig) -> None:
    """SweepError, before the work, if a point would replace results of other settings."""
    # Imported here, for every program with Hydra in it imports this module.
    from llmsched_gym.commands.comparison import kept_settings
    from llmsched_gym.commands.settings import check_replaceable, named_settings

    folder = Path(config.output_dir)
    names = [str(name) for name in config if name not in ("hydra", "output_dir")]
    settings = named_settings(OmegaConf.masked_copy(config, names))
    try:
        if (folder / "training.safetensors").exists():
            raise ValueError(f"output_dir: {folder} holds a training run; choose another")
        if not settings.get("overwrite", True):
            check_replaceable(folder, kept_settings(settings))
    except ValueError as error:
        raise SweepError(one_line(error)) from error


def _bring_home(
    result: tuple[int, str, dict[str, bytes]], overrides: Sequence[str], config: DictConfig
) -> float | None:
    """Write the files of a point and print what it printed; returns its mean JCT in seconds."""
    status, printed, files = result
    if status != 0:
        lines = printed.strip().splitlines() or [f"exit status {status}"]
        raise SweepError(f"{' '.join(overrides)}: {lines[-1]}")
    output_dir = Path(config.output_dir)
    with locked(output_dir), staged(output_dir) as folder:
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    text = printed.splitlines()
    print("\n".join([*text[:-1], f"Files: {output_dir}"]), flush=True)
    return _mean_jct_s(files)


def _mean_jct_s(files: Mapping[str, bytes]) -> float | None:
    """What the commands return: of the evaluated policy, or of what was trained at its best."""
    if "summary.json" in files:
        policies = json.loads(files["summary.json"]).get("policies") or {}
        return next((float(one["mean_jct"]["value"]) for one in policies.values()), None)
    rows = csv.DictReader(files.get("held_out.csv", b"").decode().splitlines())
    return next((float(row["mean_jct_s"]) for row in rows), None)
