"""What is installed: the wheel as it is built from a checkout, used far away from it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from support.notebooks import execute

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PACKAGES = ("llmsched_gym", "hydra_plugins")

PROGRAM = """
import gymnasium
from llmsched_gym.agents import make_policy
from llmsched_gym.workload import make_workload

workload = make_workload("task_automation", jobs_per_application=5)
env = gymnasium.make("LLMSched-v0", workload=workload, num_jobs=3, belief="none")
policy = make_policy("fair")
observation, info = env.reset(seed=0)
over = False
while not over:
    observation, reward, terminated, truncated, info = env.step(policy.act(observation))
    over = terminated or truncated
print(info["jobs_completed"])
"""
# All that lies in files beside the code can be read.
FILES = """
import llmsched_gym, hydra_plugins.llmsched_ray_launcher as launcher
from llmsched_gym.agents import make_policy
from llmsched_gym.cluster import CLUSTERS, load_cluster
print(llmsched_gym.__file__)
print(launcher.__file__)
print(len([load_cluster(name) for name in CLUSTERS]))
print(make_policy("decima", checkpoint="mixed_prior").name, make_policy("ppo").name)
"""
TINY = (
    *("workload=task_automation", "workload.jobs_per_application=25", "num_jobs=4"),
    *("cluster.engines=1", "cluster.max_batch=4"),
)
EVALUATE = ("policy=fcfs", "baselines=[fair]", "belief=none", "episodes=1", "processes=1")
TRAIN = (
    *("agent.iterations=1", "agent.tuning_iterations=0", "agent.epochs=1", "agent.groups=1"),
    *("agent.replicas=2", "agent.warm_start_decisions=10", "agent.evaluation_episodes=1"),
    *("agent.horizon_start_s=10", "agent.horizon_end_s=20", "logger=csv"),
    "rollout.num_workers=1",
)


def run(*command: str, cwd: Path, **environment: str) -> str:
    """What a command prints; it must succeed."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=cwd, env=inherited | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# --- Built from a checkout ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of all files that git knows or would add, links as links."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a checkout")
    listed = run("git", "ls-files", "-z", "-co", "--exclude-standard", cwd=ROOT)
    copy = tmp_path_factory.mktemp("checkout")
    for name in filter(os.path.lexists, (ROOT / name for name in listed.split("\0") if name)):
        target = copy / name.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(name, target, follow_symlinks=False)
    return copy


@pytest.fixture(scope="module")
def built(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    here = ["--no-isolation"] if importlib.util.find_spec("setuptools") else []
    run(sys.executable, "-m", "build", *here, "--outdir", str(folder), str(checkout), cwd=folder)
    return folder


def code_and_data(checkout: Path) -> set[str]:
    """The files that an installation must have."""
    return {
        path.relative_to(checkout).as_posix()
        for package in PACKAGES
        for path in (checkout / package).rglob("*")
        if path.is_file()
    }


def test_the_wheel_holds_the_package_and_nothing_else(checkout: Path, built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    (info,) = {name.partition("/")[0] for name in names} - set(PACKAGES)
    assert info.endswith(".dist-info")
    installed = {name for name in names if not name.startswith(info)}
    assert installed == code_and_data(checkout)
    for kind in (
        *("cluster/presets/constant.yaml", "configs/evaluate.yaml", "configs/train.yaml"),
        *("configs/experiment/paper.yaml", "workload/applications/parameters.json"),
        *("agents/decima/checkpoints/mixed_bayes.safetensors", "env/__init__.pyi", "py.typed"),
        "agents/gnn/checkpoints/mixed_bayes.safetensors",
        "agents/ppo/checkpoints/mixed_bayes.safetensors",
    ):
        assert f"llmsched_gym/{kind}" in installed


def test_the_source_distribution_is_whole(checkout: Path, built: Path) -> None:
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= code_and_data(checkout) | {"pyproject.toml", "README.md", "LICENSE"}


# --- Used far away from it ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, installed into a folder without what it depends on."""
    folder = tmp_path_factory.mktemp("site")
    (wheel,) = built.glob("*.whl")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-index")
    run(*pip, "--no-deps", "--target", str(folder), str(wheel), cwd=folder)
    return folder


def python(*arguments: str, site: Path, cwd: Path) -> str:
    """An installed Python with the package from ``site`` first, and nothing from ``cwd``."""
    return run(sys.executable, "-P", *arguments, cwd=cwd, PYTHONPATH=str(site))


def test_a_program_plays_an_episode(site: Path, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        f"import llmsched_gym{PROGRAM}print(llmsched_gym.__file__)"
    )
    completed, where = python("program.py", site=site, cwd=tmp_path).splitlines()
    assert completed == "3"
    assert Path(where) == site / "llmsched_gym" / "__init__.py"


def test_files_beside_the_code_are_found(site: Path, tmp_path: Path) -> None:
    package, launcher, clusters, policies = python(
        "-c", FILES, site=site, cwd=tmp_path
    ).splitlines()
    assert Path(package).parent == site / "llmsched_gym"
    assert Path(launcher).parent == site / "hydra_plugins"
    assert int(clusters) == len(list((ROOT / "llmsched_gym/cluster/presets").glob("*.yaml")))
    assert policies == "decima ppo"


def test_the_commands_work(site: Path, tmp_path: Path) -> None:
    def command(name: str, *settings: str) -> str:
        module = f"llmsched_gym.commands.{name}"
        return python("-m", module, *TINY, *settings, site=site, cwd=tmp_path)

    command("train", *TRAIN, "output_dir=trained")
    assert (tmp_path / "trained/best.safetensors").is_file()
    told = command("evaluate", *EVALUATE, "output_dir=evaluated")
    assert "srtf_oracle*" in told
    assert (tmp_path / "evaluated/jct_cdf.png").is_file()
    assert sorted(os.listdir(tmp_path)) == ["evaluated", "trained"]


def test_the_console_scripts_lead_to_the_commands(site: Path, tmp_path: Path) -> None:
    for name in ("evaluate", "train"):
        script = site / "bin" / f"llmsched-{name}"
        told = python(str(script), "--help", site=site, cwd=tmp_path)
        assert f"python {name}.py" in told


# --- In an environment of its own -----------------------------------------------------------------

VIDEO = """
import gymnasium
from gymnasium.wrappers import RecordVideo
import llmsched_gym

env = gymnasium.make("LLMSched-v0", workload="planning", num_jobs=3, render_mode="rgb_array")
env = RecordVideo(env, "videos", disable_logger=True)
observation, info = env.reset(seed=0)
over = False
while not over:
    action = int(observation["action_mask"].argmax())
    observation, reward, terminated, truncated, info = env.step(action)
    over = terminated or truncated
env.close()
"""
UNREACHED = (
    "Could not find a version",
    "Failed to establish a new connection",
    "Temporary failure",
)


def install(environment: Path, *wanted: str) -> None:
    """Install into a virtual environment, in the versions of constraints.txt."""
    pip = (str(environment / "bin" / "python"), "-m", "pip", "--disable-pip-version-check")
    command = [*pip, "install", "--quiet", "--constraint", str(ROOT / "constraints.txt"), *wanted]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and any(sign in done.stderr for sign in UNREACHED):
        pytest.skip("no packages can be installed here")
    assert done.returncode == 0, done.stderr


def test_a_wheel_in_an_empty_environment(built: Path, tmp_path: Path) -> None:
    """What the README promises whoever installs it: the environment alone, then the extras."""
    environment, here = tmp_path / "environment", tmp_path / "here"
    here.mkdir()
    run(sys.executable, "-m", "venv", str(environment), cwd=tmp_path)
    (wheel,) = built.glob("*.whl")

    def program(text: str) -> str:
        return run(str(environment / "bin" / "python"), "-c", text, cwd=here)

    install(environment, str(wheel))
    assert program(f"import llmsched_gym{PROGRAM}") == "3\n"
    install(environment, "moviepy")
    program(VIDEO)
    (video,) = (here / "videos").glob("*.mp4")
    assert video.stat().st_size > 10_000

    install(environment, f"{wheel}[commands,report]")
    evaluate = str(environment / "bin" / "llmsched-evaluate")
    told = run(evaluate, *TINY, *EVALUATE, "report=true", "output_dir=evaluated", cwd=here)
    assert "srtf_oracle*" in told
    assert (here / "evaluated" / "report.html").stat().st_size > 1_000_000


# --- In a notebook --------------------------------------------------------------------------------

CELLS = (
    "from llmsched_gym import agents, belief, cluster, env, experiments, workload\n"
    "from llmsched_gym.evaluation import compare",
    "small = workload.make_workload('task_automation', jobs_per_application=5)\n"
    "result = compare(['fair', 'fcfs'], workload=small, num_jobs=3, episodes=2, belief='none',\n"
    "                 reference=False)\n"
    "result.summary",
    "result.jct_by_policy()",
    "result.table()",
)


def test_a_notebook_compares_and_shows(tmp_path: Path) -> None:
    """In any folder but the root of the checkout, with a kernel that is registered nowhere."""
    from nbformat.v4 import new_code_cell, new_notebook

    folder = tmp_path / "notebooks"
    folder.mkdir()

    cells = [new_code_cell(source) for source in CELLS]  # type: ignore[no-untyped-call]
    notebook = new_notebook(cells=cells)  # type: ignore[no-untyped-call]
    execute(notebook, folder)

    def shown(cell: int) -> Any:
        (output,) = notebook.cells[cell].outputs  # and nothing on stderr
        return output.data

    assert notebook.cells[0].outputs == []
    table = shown(1)["text/html"]
    assert "<table" in table
    assert all(word in table for word in ("fair", "fcfs", "mean_jct_s"))
    assert shown(2)["image/png"].startswith("iVBORw0KGgo")  # a PNG in base 64
    assert "slowdown: JCT over the time alone" in shown(3)["text/plain"]
    assert os.listdir(folder) == []
