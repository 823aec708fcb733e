"""The command: its files, one line for everything that is wrong, and going on after the worst."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmsched_gym.agents.learning import course
from llmsched_gym.agents.learning.checkpoint import load, save
from llmsched_gym.commands import evaluate, train
from llmsched_gym.commands.groups import training_groups
from llmsched_gym.files import LOCK, locked
from support.sampled import sampled

ROOT = Path(__file__).parents[2]
GENERATED = ("workload=task_automation", "workload.jobs_per_application=40")
JOBS = ("workload.load=2", "cluster.engines=1", "cluster.max_batch=4", "num_jobs=8")
SHORT = (
    *(*JOBS, "agent.iterations=4", "agent.epochs=2"),
    *("agent.evaluate_every=2", "agent.evaluation_episodes=2"),
)
REPLICAS = (
    *("agent.groups=2", "agent.replicas=4", "agent.warm_start_decisions=20"),
    *("agent.iterations=3", "agent.tuning_iterations=1"),
    *("agent.horizon_start_s=10", "agent.horizon_end_s=40"),
)
TINY = {
    "decima": REPLICAS,
    "gnn": (*REPLICAS, "agent.layers=1"),
    "ppo": ("agent.environments=3", "agent.steps=20", "agent.minibatch=30"),
}
FILES = [
    *("best.safetensors", "held_out.csv", "learning_curve.png"),
    *("progress.csv", "training.safetensors"),
]

Command = Callable[..., tuple[int, str, str]]


def tiny(*arguments: str) -> tuple[str, ...]:
    """What makes a training run short, for the agent that the arguments name."""
    agent = next((name for name in TINY if f"agent={name}" in arguments), "decima")
    return (*SHORT, *TINY[agent])


@pytest.fixture
def command(run_main: Command) -> Command:
    """Runs the command in an empty folder: exit code, stdout, stderr."""

    def run(*arguments: str, main: Callable[[list[str]], None] = train.main) -> Any:
        generated = () if "workload=traces" in arguments else GENERATED
        short = tiny(*arguments) if main is train.main else ()
        return run_main(main, *generated, *short, *arguments)

    return run


def rows(file: Path) -> list[dict[str, str]]:
    with file.open() as lines:
        return list(csv.DictReader(lines))


def evaluations(folder: Path) -> list[tuple[str, str]]:
    table = rows(folder / "progress.csv")
    return [(row["iteration"], row["jct_s"]) for row in table if row["jct_s"]]


# --- what it writes and prints --------------------------------------------------------------------


@pytest.mark.parametrize("agent", TINY)
def test_train_then_evaluate(command: Command, agent: str) -> None:
    code, out, err = command(f"agent={agent}", "logger=csv", "output_dir=out", "belief=bayes")
    assert code == 0
    assert sorted(os.listdir("out")) == FILES
    assert os.listdir() == ["out"]
    held_out = rows(Path("out/held_out.csv"))
    for row in held_out:
        assert f"{float(row['mean_jct_s']):.1f}" in out
        assert row["policy"] in out
    shown = [line for line in err.splitlines() if line.startswith("iteration ")]
    assert len(shown) == 3
    meta = load(Path("out/best.safetensors"), agent)[1]
    assert meta["settings"]["belief"]["name"] == "bayes"
    assert meta["settings"]["agent"]["epochs"] == 2

    checkpoint = "policy.checkpoint=out/best.safetensors"
    settings = (*JOBS, f"policy={agent}", checkpoint, "episodes=2", "processes=1")
    code, out, err = command(*settings, "output_dir=eval", main=evaluate.main)
    assert (code, err) == (0, "")
    assert agent in json.loads(Path("eval/summary.json").read_text())["policies"]


@sampled("agent", ["decima", "ppo"])
def test_another_reward(command: Command, agent: str) -> None:
    """It is learnt from, but held-out episodes are judged by their JCT as ever."""
    Path("module_of_mine.py").write_text(
        "def late(step):\n    return float(step.jobs.jct_s.min() < 9) - step.elapsed_s\n"
        "def broken(step):\n    return None\n"
    )
    arguments = (f"agent={agent}", "logger=csv")
    for reward in ("jct", "slo:1.1", "module_of_mine:late"):
        code, _, err = command(*arguments, f"reward={reward}", f"output_dir={reward}")
        assert code == 0, err
    tables = {one: rows(Path(one) / "progress.csv") for one in ("jct", "slo:1.1")}
    first = [table[0]["jct_s"] for table in tables.values()]
    assert first[0] == first[1] != ""
    assert [bool(table[1]["mean_jobs"]) for table in tables.values()] == [True, False]
    returns = [float(row["return"]) for row in tables["slo:1.1"] if row["return"]]
    assert returns
    assert all(-8 <= value <= 0 for value in returns)
    code, _, err = command(*arguments, "reward=module_of_mine:broken", "output_dir=other")
    assert code == 2
    what = "reward: module_of_mine:broken returned None, not a finite number"
    assert err.splitlines()[-1] == f"train.py: {what}"


def test_tensorboard_by_default(command: Command) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert command("agent.iterations=2", "agent.tuning_iterations=0", "output_dir=out")[0] == 0
    assert sorted(os.listdir("out")) == sorted([*FILES, "tensorboard"])
    events = EventAccumulator("out/tensorboard").Reload()
    table = rows(Path("out/progress.csv"))
    jct_s = [(event.step, event.value) for event in events.Scalars("jct_s")]
    wanted = [(int(row["iteration"]), float(row["jct_s"])) for row in table if row["jct_s"]]
    assert [step for step, _ in jct_s] == [step for step, _ in wanted] == [0, 2]
    assert np.array(jct_s) == pytest.approx(np.array(wanted))
    assert [event.step for event in events.Scalars("entropy")] == [1, 2]


def test_help_lists_every_choice(command: Command) -> None:
    code, out, _ = command("--help")
    assert code == 0
    listed = {
        group: set(choices.split(", "))
        for group, _, choices in (line.partition(": ") for line in out.splitlines())
    }
    for group, choices in training_groups().items():
        assert listed[group] == set(choices)


def same_best(*folders: str) -> bool:
    """Whether runs have the same best weights, of the same iteration, and the same to say of it."""
    (mine, about), (theirs, other) = (load(Path(one, "best.safetensors")) for one in folders)
    keys = ("iteration", "held_out_jct_s")
    assert all((mine[name] == theirs[name]).all() for name in mine)
    assert [about[key] for key in keys] == [other[key] for key in keys]
    return rows(Path(folders[0], "held_out.csv")) == rows(Path(folders[1], "held_out.csv"))


def test_minutes_end_it_and_resume_goes_on(command: Command) -> None:
    """Random weights are nobody's best."""
    again = ("logger=csv", "output_dir=out", "resume=true")
    assert command("logger=csv", "output_dir=whole")[0] == 0
    code, out, err = command(*again, "minutes=1e-6")
    assert code == 0
    assert "0 iterations: nothing learnt, no best.safetensors; resume=true goes on from" in err
    assert "decima, not trained" in out
    assert len(rows(Path("out/progress.csv"))) == 1
    assert sorted(os.listdir("out")) == FILES[1:]
    assert command(*again, "checkpoint_minutes=1")[0] == 0
    assert evaluations(Path("out")) == evaluations(Path("whole"))
    assert same_best("out", "whole")


def test_what_is_learnt_is_kept_where_nothing_was_evaluated_yet(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_iteration(go_on: Any, learner: Any, asked: course.Course) -> None:
        repeat(go_on, learner, replace(asked, iterations=1))

    repeat = course._repeat
    assert command("logger=csv", "output_dir=whole")[0] == 0
    with monkeypatch.context() as changed:
        changed.setattr(course, "_repeat", one_iteration)
        assert command("logger=csv", "output_dir=out")[0] == 0
    meta = load(Path("out/best.safetensors"))[1]
    assert meta["iteration"] == 1
    assert float(rows(Path("out/held_out.csv"))[0]["mean_jct_s"]) == meta["held_out_jct_s"]
    assert command("logger=csv", "output_dir=out", "resume=true")[0] == 0
    assert evaluations(Path("out")) == evaluations(Path("whole"))
    assert same_best("out", "whole")


# --- what is wrong --------------------------------------------------------------------------------


def one_line(code: int, out: str, err: str) -> str:
    assert code == 2, err
    assert out == ""
    assert err.startswith("train.py: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert not [name for name in os.listdir() if name.startswith((".", "out"))]
    return err


@sampled(
    ("arguments", "message"),
    [
        ("agent=best", "agent: unknown 'best', choose from custom, decima, gnn, ppo"),
        ("workload=best", "workload: unknown 'best', choose from chain_like, "),
        ("preset=best", "preset: unknown 'best', choose from tiny"),
        ("rollout=best", "rollout: unknown 'best', choose from ray, threads"),
        ("logger=best", "logger: choose from csv, tensorboard, wandb"),
        ("agent.replicas=1", "agent.replicas: 1, but it takes 2"),
        ("agent.device=gpu", "agent.device: choose from cpu, cuda"),
        ("agent.iterations=-1", "agent.iterations: -1 is not a whole number of at least 0"),
        ("agent.iterations=0 agent.tuning_iterations=0", "agent.iterations: 0, as agent.tuning_it"),
        ("scenarios=[]", "scenarios: [] is neither all nor a list of different names"),
        ("scenarios=mixed", "scenarios: 'mixed' is neither all nor a list of different names"),
        ("scenarios=[mixed,mixed]", "scenarios: ['mixed', 'mixed'] is neither all nor a list of"),
        ("scenarios=[mixed,plan]", "scenario: unknown 'plan'"),
        ("scenarios=all scenario=mixed", "scenarios: with scenario=mixed, choose one of the two"),
        ("scenarios=[planning,large]", "agent.iterations: 3 of imitation and PPO, which learn fr"),
        ("agent=ppo scenarios=[planning,large]", "scenarios: agent=ppo learns from one, choose i"),
        ("agent.groups=few", "agent.groups: Value 'few' of type 'str' could not be conv"),
        ("agent.learning_rate=-1", "agent.learning_rate: -1.0 is not a positive number"),
        ("agent.clip=nan", "agent.clip: nan is not a positive number"),
        ("agent.lr=1", "unknown option 'agent.lr'; valid here: name, iterations, groups, "),
        ("+agent.lr=1", "unknown option 'agent.lr'; valid here: name, iterations, groups, "),
        ("agent.warm_start=sfj", "agent.warm_start: policy: unknown 'sfj' (did you mean 'sjf'?), "),
        ("rollout.num_workers=3", "rollout.num_workers: 3 workers have only 2 groups"),
        ("rollout.num_workers=0", "num_workers: 0 is not a whole number of at least 1"),
        ("rollout=ray ray.address=127.0.0.1:1", "ray.address: no Ray at '127.0.0.1:1'"),
        ("belief=none", "belief: the network reads demands, so it needs prior, bayes or oracle"),
        ("agent=gnn agent.heads=3", "agent.embedding: 16 is not a multiple of agent.heads=3"),
        ("agent=gnn agent.network=mine", "agent.network: 'mine' is not of the form my_module:MyN"),
        ("agent=gnn agent.network=nowhere:N", "agent.network: nowhere:N: cannot import 'nowhere'"),
        ("agent=gnn agent.network=json:N", "agent.network: json has no subclass 'N' of llmsched_"),
        ("agent=ppo rollout=ray", "rollout: stable-baselines3 collects in this process, so ray is"),
        ("agent=ppo belief=none", "belief: the network reads demands, so it needs prior, bayes or"),
        ("agent=ppo agent.steps=0", "agent.steps: 0 is not a whole number of at least 1"),
        ("agent=ppo agent.trace_s=-1", "agent.trace_s: -1.0 is not a positive number"),
        ("agent=ppo agent.groups=2", "unknown option 'agent.groups'; valid here: name, iterations"),
        ("workload.load=0", "load: 0.0 is not a positive number"),
        ("cluster.engines=0", "engines: 0 is not a whole number of at least 1"),
        ("workload=traces workload.path=absent", "absent: no such file or folder"),
        (
            "reward=best",
            "reward: unknown 'best', choose from jct, makespan, completions, slowdown,",
        ),
        ("reward=slo:0", "reward: slo: 0.0 is not a positive factor"),
        ("reward=nowhere:f", "reward nowhere:f: cannot import 'nowhere'"),
        ("num_jobs=0", "num_jobs: 0 is not a whole number of at least 1"),
        ("max_stages=1", "max_stages: 1 cannot hold a single job"),
        ("seed=-1", "seed: -1 is not a whole number of at least 0"),
        ("minutes=0", "minutes: 0 is not a positive number"),
        ("minutes=nan", "minutes: nan is not a positive number"),
        ("minutes=inf", "minutes: inf is not a positive number"),
        ("checkpoint_minutes=inf", "checkpoint_minutes: inf is not a positive number"),
        ("agent.iterations=1000000000000", "agent.iterations: 1000000000000 is above 1000000000"),
        ("agent.embedding=100000", "agent.embedding: 100000 is above 1024"),
        ("agent.groups=100000", "agent.groups: 100000 is above 10000"),
        ("agent.clip=1e300", "agent.clip: 1e+300 is above 1000000000"),
        ("agent.learning_rate=inf", "agent.learning_rate: inf is not a positive number"),
        ("agent=ppo agent.environments=10001", "agent.environments: 10001 is above 10000"),
        ("belief.prior_jobs=inf", "prior_jobs: inf is not a number above 0"),
        ("belief.prior_jobs=nan", "prior_jobs: nan is not a number above 0"),
        ("belief.bins=1000000000", "bins: 1000000000 is not a whole number between 1 and 100"),
        ("belief.fanouts=0", "fanouts: 0 is not a whole number between 1 and 100"),
        ("belief.low=nan", "low: nan is not a number between 0 and 1"),
        ("belief.high=inf", "high: inf is not a number between 0 and 1"),
        ("checkpoint_minutes=null", "checkpoint_minutes: None is not a positive number"),
        ("resume=maybe", "resume: 'maybe' is neither true nor false"),
        ("output_dir=", "output_dir: it needs the name of a folder"),
        ("episodes=2", "unknown option 'episodes'; valid here: agent, workload, cluster, "),
        ("+episodes=2", "unknown option 'episodes'; valid here: agent, workload, cluster, "),
        ("agent", "'agent' is not of the form name=value"),
        ("--best", "unknown flag '--best', choose from --help, "),
    ],
)
def test_bad_input_ends_with_one_line(command: Command, arguments: str, message: str) -> None:
    output = () if "output_dir" in arguments else ("output_dir=out",)
    assert message in one_line(*command(*output, *arguments.split()))


def test_learning_on_a_gpu(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    there = torch.cuda.is_available()
    arguments = ("logger=csv", "agent.device=cuda")
    if there:
        assert command(*arguments, "output_dir=gpu")[0] == 0
        assert sorted(os.listdir("gpu")) == FILES
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line = one_line(*command(*arguments, "output_dir=out"))
    assert "agent.device: torch finds no CUDA device here" in line


def test_a_run_that_is_there_is_neither_overwritten_nor_mixed(command: Command) -> None:
    assert command("logger=csv", "output_dir=out")[0] == 0
    before = Path("out/training.safetensors").read_bytes()
    code, out, err = command("logger=csv", "output_dir=out")
    assert (code, out) == (2, "")
    assert "resume=true goes on with it" in err
    code, out, err = command("logger=csv", "output_dir=out", "resume=true", "agent.clip=0.1")
    assert (code, out) == (2, "")
    assert "made with agent.clip=0.2, cannot go on with agent.clip=0.1" in err
    assert err.count("\n") == 1
    Path("out/training.safetensors").write_bytes(before[:-9])
    code, out, err = command("logger=csv", "output_dir=out", "resume=true")
    assert (code, out) == (2, "")
    assert "out/training.safetensors: damaged" in err
    assert err.count("\n") == 1


def test_two_do_not_train_in_one_folder(command: Command) -> None:
    with locked(Path("out")):
        code, out, err = command("logger=csv", "output_dir=out")
    assert (code, out) == (2, "")
    assert err == "train.py: another run is writing to out\n"
    assert not Path("out").exists()
    Path("out").mkdir()
    Path("out", LOCK).touch()  # of a process that was killed
    assert command("logger=csv", "output_dir=out")[0] == 0
    assert sorted(os.listdir("out")) == FILES


def test_secrets_stay_where_they_are(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "s3cr3t-value")
    monkeypatch.setenv("SEED", "7")
    key, seed = "wandb.project='${oc.env:KEY}'", "seed='${oc.decode:${oc.env:SEED}}'"
    code, _, err = command(key, seed, "output_dir=out")
    assert code == 0, err
    files = [path for path in Path("out").rglob("*") if path.is_file()]
    assert any("tfevents" in path.name for path in files)
    for path in files:
        content = path.read_bytes()
        assert b"s3cr3t" not in content, path
        if path.suffix == ".safetensors" or "tfevents" in path.name:
            assert b"${oc.env:KEY}" in content
    settings = load(Path("out/best.safetensors"))[1]["settings"]
    assert (settings["seed"], settings["num_jobs"]) == (7, 8)
    monkeypatch.setenv("SEED", "8")
    code, _, err = command(key, seed, "output_dir=out", "resume=true")
    assert (code, err.count("\n")) == (2, 1)
    assert "made with seed=7, cannot go on with seed=8" in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, m: t["network.score.bias"].fill_(np.nan), "holds a number that is not finite"),
        (lambda t, m: t.pop("network.score.bias"), "'score.bias' is missing"),
        (lambda t, m: t.pop("adam.3.exp_avg"), "'exp_avg' is missing"),
        (lambda t, m: t.pop("adam.3.step") and t.pop("adam.3.exp_avg"), " is missing"),
        (lambda t, m: t["adam.0.exp_avg_sq"].fill_(-1), "holds a number that is negative"),
        (lambda t, m: t.update({"adam.x.step": t["adam.0.step"].clone()}), "invalid literal"),
        (lambda t, m: m.update(iteration=-2), "it does not say how far training was"),
        (lambda t, m: m.update(decisions="3"), "it does not say how far training was"),
        (lambda t, m: m.pop("compared_jct_s"), "a time is not a number of seconds"),
        (lambda t, m: m.update(seconds=float("nan")), "a time is not a number of seconds"),
        (lambda t, m: m.update(settings=[1]), "made with =[1], cannot go on with "),
    ],
)
def test_states_of_all_sorts(
    command: Command,
    change: Callable[[dict[str, Any], dict[str, Any]], Any],
    message: str,
    one_state: Path,
) -> None:
    tensors, meta = load(one_state, "decima training")
    change(tensors, meta)
    save(Path("out/training.safetensors"), tensors, meta)
    code, out, err = command("logger=csv", "output_dir=out", "resume=true")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("train.py: out/training.safetensors: ")
    assert message in err
    assert os.listdir("out") == ["training.safetensors"]


@pytest.fixture(scope="module")
def one_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run of a few iterations leaves to go on from."""
    folder = tmp_path_factory.mktemp("one")
    assert start(folder, "output_dir=out").wait(timeout=300) == 0
    return folder / "out/training.safetensors"


# --- ends that nobody wants -----------------------------------------------------------------------


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    given = (*GENERATED, *tiny(*arguments), "logger=csv", *arguments)
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *given],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


LONG = ("agent.iterations=40", "output_dir=out", "checkpoint_minutes=1e-6")


@pytest.fixture(scope="module", params=TINY)
def agent(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def whole(agent: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody ends."""
    folder = tmp_path_factory.mktemp("whole")
    running = start(folder, f"agent={agent}", *LONG)
    assert running.wait(timeout=300) == 0
    return folder / "out"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals are others there")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_ended_goes_on_to_the_same_evaluations(
    agent: str, whole: Path, tmp_path: Path, number: signal.Signals
) -> None:
    running = start(tmp_path, f"agent={agent}", *LONG)
    while running.poll() is None and not (tmp_path / "out/training.safetensors").exists():
        time.sleep(0.01)
    time.sleep(np.random.default_rng().uniform(0, 1))  # anywhere
    running.send_signal(number)
    out, err = running.communicate(timeout=60)
    if number != signal.SIGKILL and running.returncode:
        assert (running.returncode, out) == (130, "")
        line = "train.py: interrupted, the same command with resume=true goes on"
        assert err.splitlines()[-1] == line
    again = start(tmp_path, f"agent={agent}", *LONG, "resume=true")
    assert again.wait(timeout=300) == 0
    assert evaluations(tmp_path / "out") == evaluations(whole)
    for name in ("training.safetensors", "best.safetensors"):
        kind = agent if name.startswith("best") else f"{agent} training"
        tensors, _ = load(tmp_path / "out" / name, kind)
        wanted, _ = load(whole / name, kind)
        assert tensors.keys() == wanted.keys()
        assert all((tensors[key] == wanted[key]).all() for key in wanted)
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert {name for name in left if not name.startswith(".")} == set(FILES)


@pytest.mark.slow
def test_two_at_once_do_not_mix(tmp_path: Path) -> None:
    first = start(tmp_path, *LONG)
    while not (tmp_path / "out/progress.csv").exists():
        assert first.poll() is None
        time.sleep(0.01)
    second = start(tmp_path, *LONG, "resume=true")
    assert second.communicate(timeout=300) == ("", "train.py: another run is writing to out\n")
    assert second.returncode == 2
    assert first.wait(timeout=300) == 0
    numbers = [row["iteration"] for row in rows(tmp_path / "out/progress.csv")]
    assert numbers == [str(number) for number in range(len(numbers))]


# --- learning -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_little_training_beats_random(command: Command) -> None:
    place = ("workload.load=2", "cluster.engines=1", "cluster.max_batch=8", "num_jobs=20")
    code, _, _ = command(
        *("workload=mixed", "workload.jobs_per_application=100", *place, "belief=bayes"),
        *("agent.iterations=15", "agent.groups=4", "agent.replicas=6", "agent.evaluate_every=5"),
        *(
            "agent.horizon_start_s=100",
            "agent.horizon_end_s=300",
            "logger=csv",
            "output_dir=out",
        ),
    )
    assert code == 0
    code, _, _ = command(
        *("workload=mixed", "workload.jobs_per_application=100", *place, "policy=decima"),
        *("policy.checkpoint=out/best.safetensors", "baselines=[random,fcfs]", "episodes=8"),
        "output_dir=eval",
        main=evaluate.main,
    )
    assert code == 0
    policies = json.loads(Path("eval/summary.json").read_text())["policies"]
    mean = {name: one["mean_jct"]["value"] for name, one in policies.items()}
    assert mean["decima"] < 0.9 * mean["random"]
    assert mean["decima"] < mean["fcfs"]


@pytest.mark.slow
def test_the_curve_of_the_tiny_preset_falls(run_main: Command) -> None:
    code, _, err = run_main(train.main, "preset=tiny", "logger=csv", "output_dir=out")
    assert code == 0, err
    first, *learnt = (float(jct_s) for _, jct_s in evaluations(Path("out")))
    assert min(learnt) < 0.95 * first


# --- logs -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_wandb_offline(command: Command) -> None:
    code, _, err = command("logger=wandb", "output_dir=out", "minutes=1e-6")
    assert code == 0, err
    assert sorted(os.listdir("out")) == [*FILES[1:], "wandb", "wandb_run"]
    assert command("logger=wandb", "wandb.mode=offline", "output_dir=out", "resume=true")[0] == 0
    assert sorted(os.listdir("out")) == [*FILES, "wandb", "wandb_run"]
    runs = [path for path in Path("out/wandb").iterdir() if path.name.startswith("offline-run")]
    run_id = Path("out/wandb_run").read_text().strip()
    assert len(runs) == 2
    assert all(path.name.endswith(run_id) for path in runs)
    content = b"".join(path.read_bytes() for path in Path("out/wandb").rglob("*.wandb"))
    for logged in ("mean_jobs", "held_out", "best-", "evaluation_episodes"):
        assert logged.encode() in content
    assert [row["iteration"] for row in rows(Path("out/progress.csv"))] == list("01234")
