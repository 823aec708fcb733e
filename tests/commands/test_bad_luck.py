"""Policies that raise, processes that are killed, signals, and two runs in one folder."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from llmsched_gym.commands import evaluate

ROOT = Path(__file__).parents[2]
GENERATED = ("workload=task_automation", "workload.jobs_per_application=40")
TINY = (*GENERATED, "episodes=2", "num_jobs=6", "baselines=[]", "belief=prior")
LONG = (*GENERATED, "episodes=100", "num_jobs=5000", "policy=fcfs", "belief=prior")
POLICIES = """
import os, sys
from llmsched_gym.agents.base import Policy

class Raises(Policy):
    def act(self, observation):
        raise {error}

class Begins(Policy):
    def reset(self, seed=None):
        raise {error}
    def act(self, observation):
        return 0

class Made(Policy):
    def __init__(self):
        raise {error}
    def act(self, observation):
        return 0
"""
ERRORS = ("KeyError('lost\\x1b[31m')", "SystemExit(0)", "KeyboardInterrupt", "GeneratorExit")
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(run_main: Command) -> Iterator[Command]:
    """Runs the command with a module of policies in an empty folder."""

    def run(*arguments: str) -> tuple[int, str, str]:
        sys.modules.pop("mine", None)
        return run_main(evaluate.main, *TINY, "output_dir=out", *arguments)

    yield run
    sys.modules.pop("mine", None)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("policy", ["Raises", "Begins", "Made"])
def test_a_policy_that_raises_keeps_its_traceback_under_one_line(
    command: Command, error: str, policy: str
) -> None:
    Path("mine.py").write_text(POLICIES.format(error=error))
    code, out, err = command("policy=custom", f"policy.path=mine:{policy}", "processes=1")
    assert (code, out) == (1, "")
    first, second, *rest = err.splitlines()
    where = {"Raises": "episode 0: decision 0: ", "Begins": "episode 0: reset: ", "Made": ""}
    name, _, message = error.rstrip("')").partition("(")
    assert first.startswith(f"evaluate.py: policy mine:{policy}: {where[policy]}{name}")
    assert message.strip("'") in first
    assert second == "Traceback (most recent call last):"
    assert rest[0].endswith(
        ", in " + {"Raises": "act", "Begins": "reset", "Made": "__init__"}[policy]
    )
    assert "\x1b" not in err
    assert not Path("out").exists()


@pytest.mark.parametrize("error", ["SystemExit(0)", "KeyError('lost')", "import nowhere"])
def test_a_module_that_raises(command: Command, error: str) -> None:
    Path("mine.py").write_text(error if error.startswith("import") else f"raise {error}")
    code, out, err = command("policy=custom", "policy.path=mine:Any")
    assert (code, out) == (2 if "import" in error else 1, "")
    assert err.startswith("evaluate.py: policy mine:Any: cannot import 'mine': ")
    assert "importlib" not in err


RETURNED = ("None", "'0'", "float('nan')", "0.5", "10**6", "-1", "[0, 1]", "10**400", "object()")


@pytest.mark.parametrize("action", RETURNED)
def test_what_is_no_action_ends_with_one_line(command: Command, action: str) -> None:
    Path("mine.py").write_text(
        "from llmsched_gym.agents.base import Policy\n"
        f"class Odd(Policy):\n    def act(self, observation):\n        return {action}\n"
    )
    code, out, err = command("policy=custom", "policy.path=mine:Odd", "processes=1")
    assert (code, out) == (2, "")
    assert err.startswith("evaluate.py: policy mine:Odd: episode 0: decision 0: ")
    assert err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "code", "line"),
    [
        ("sys.exit(0)", 1, "policy mine:Bad: episode 0: decision 0: SystemExit: 0"),
        ("os._exit(0)", 1, "a process that played episodes ended with exit code 0"),
        ("os.kill(os.getpid(), 9)", 1, "a process that played episodes was killed by signal 9, "),
    ],
)
def test_a_worker_that_ends(tmp_path: Path, body: str, code: int, line: str) -> None:
    (tmp_path / "mine.py").write_text(
        "import os, sys\nfrom llmsched_gym.agents.base import Policy\n"
        f"class Bad(Policy):\n    def act(self, observation):\n        {body}\n"
    )
    arguments = ("policy=custom", "policy.path=mine:Bad", "processes=2", "episodes=1")
    done = subprocess.run(
        [sys.executable, str(ROOT / "evaluate.py"), *TINY, *arguments],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(f"evaluate.py: {line}")
    assert {path.name for path in tmp_path.iterdir()} <= {"mine.py", "__pycache__"}


def begun(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    (folder / "temporary").mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, str(ROOT / "evaluate.py"), *arguments, "output_dir=out"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env=os.environ | {"TMPDIR": str(folder / "temporary")},
    )  # fmt: skip


def wait_until_it_plays(running: "subprocess.Popen[str]", folder: Path) -> None:
    while running.poll() is None and not list(folder.glob("out/.unfinished-*")):
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_is_as_good_as_an_interrupt(tmp_path: Path, processes: int) -> None:
    running = begun(tmp_path, *LONG, f"processes={processes}")
    wait_until_it_plays(running, tmp_path)
    os.kill(running.pid, signal.SIGTERM)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (130, "")
    assert err == "evaluate.py: interrupted, no results are written\n"
    assert [path.name for path in tmp_path.rglob("*")] == ["temporary"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_two_at_once_and_one_after_a_kill(tmp_path: Path, run_main: Command) -> None:
    running = begun(tmp_path, *LONG, "processes=1")
    wait_until_it_plays(running, tmp_path)
    code, out, err = run_main(evaluate.main, *TINY, "policy=fcfs", "output_dir=out")
    assert (code, out) == (2, "")
    assert err == "evaluate.py: output_dir: another run is writing to out\n"
    running.kill()
    running.communicate()
    assert list(tmp_path.glob("out/.*"))
    assert run_main(evaluate.main, *TINY, "policy=fcfs", "output_dir=out", "processes=1")[0] == 0
    assert not list(tmp_path.glob("out/.*"))
    assert len(list(tmp_path.glob("out/*"))) == 5


# --- killed at random moments ---------------------------------------------------------------------


def kill_some(rng: random.Random, running: "subprocess.Popen[str]") -> list[psutil.Process]:
    """Kill a worker at its birth or later, or the command itself; the processes that there were."""
    there: list[psutil.Process] = []
    whom = rng.choice(["worker at birth", "worker", "parent"])
    process = psutil.Process(running.pid)
    with suppress(psutil.NoSuchProcess):
        if whom != "parent":
            workers: list[psutil.Process] = []
            while not workers and running.poll() is None:
                workers = [
                    one for one in process.children() if "spawn_main" in " ".join(one.cmdline())
                ]
            time.sleep(0 if whom == "worker at birth" else rng.uniform(0, 3))
            there = process.children(recursive=True)
            for worker in workers[:1]:
                worker.kill()
        else:
            time.sleep(rng.uniform(0, 6))
            there = process.children(recursive=True)
            running.kill()
    return there


def check_after_a_kill(folder: Path, seed: int, whole: bytes) -> None:
    rng = random.Random(seed)
    some = (*GENERATED, "episodes=12", "num_jobs=300", "policy=fcfs", "belief=prior", "processes=2")
    running = begun(folder, *some)
    there = kill_some(rng, running)
    out, err = running.communicate(timeout=100)
    assert running.returncode in (0, 1, -signal.SIGKILL), err
    if running.returncode == 1:
        assert err.count("\n") == 1, err
        assert "a process that played episodes was killed by signal 9" in err
        assert out == ""
        assert not (folder / "out").exists()
    assert not psutil.wait_procs(there, timeout=20)[1]
    if (folder / "out/summary.json").exists():
        assert (folder / "out/jobs.csv").read_bytes() == whole
    again = begun(folder, *some)
    assert again.communicate(timeout=100)[1] == ""
    assert (folder / "out/jobs.csv").read_bytes() == whole
    assert len(list((folder / "out").iterdir())) == 5
    assert {path.name for path in folder.iterdir()} == {"out", "temporary"}
    assert list((folder / "temporary").iterdir()) == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("whole")
    some = (*GENERATED, "episodes=12", "num_jobs=300", "policy=fcfs", "belief=prior", "processes=1")
    assert begun(folder, *some).communicate(timeout=100)[1] == ""
    return (folder / "out/jobs.csv").read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_kill_at_a_random_moment(tmp_path: Path, whole: bytes) -> None:
    check_after_a_kill(tmp_path, 0, whole)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("seed", range(1, 11))
def test_kills_at_many_random_moments(tmp_path: Path, whole: bytes, seed: int) -> None:
    check_after_a_kill(tmp_path, seed, whole)
