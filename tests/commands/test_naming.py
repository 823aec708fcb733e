"""Names of folders, and results that are not replaced by others."""

import json
import os
import string
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsched_gym.agents.base import POLICIES
from llmsched_gym.cluster.preset import CLUSTERS
from llmsched_gym.commands import evaluate
from llmsched_gym.commands.naming import LONGEST, options_suffix
from llmsched_gym.commands.settings import check_replaceable, check_written
from llmsched_gym.workload.mixes import WORKLOADS

TINY = (
    *("policy=fcfs", "baselines=[]", "episodes=1", "num_jobs=4", "processes=1", "belief=prior"),
    *("workload=task_automation", "workload.jobs_per_application=40"),
)
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(run_main: Command) -> Command:
    """Runs the command in an empty folder: exit code, stdout, stderr."""
    return lambda *arguments: run_main(evaluate.main, *TINY, *arguments)


@pytest.mark.parametrize(
    ("overrides", "suffix"),
    [
        (["policy=fcfs", "workload.load=2", "seed=3", "output_dir=x", "processes=2"], ""),
        (["cluster.engines=4", "episodes=5"], "_cluster.engines-4_episodes-5"),
        (["episodes=5", "+cluster.engines=4"], "_cluster.engines-4_episodes-5"),
        (["baselines=[sjf,weighted_fair]"], "_baselines-sjf+weighted_fair"),
        (["baselines=[]", "policy.epsilon=0.5"], "_baselines-none_policy.epsilon-0.5"),
        (
            [
                "backend=testbed",
                "testbed.url=[http://127.0.0.1:8001,http://h:1]",
                "testbed.slots=8",
            ],
            "_testbed.slots-8_testbed.url-127.0.0.1-8001+h-1-2aef08f2",
        ),
        (["resume=true", "minutes=3", "wandb.mode=offline", "ray.address=x"], ""),
    ],
)
def test_what_a_name_says(overrides: list[str], suffix: str) -> None:
    assert options_suffix(overrides) == suffix


def test_every_server_and_number_of_slots_has_a_folder_of_its_own() -> None:
    urls = (
        "a:1",
        "http://a:1",
        "https://a:1",
        "http://a-1",
        "a-1",
        "[a-1]",
        "[http://a:1]",
        "'a:1'",
    )
    given = [(url, slots) for url in urls for slots in (1, 8)]
    names = {options_suffix([f"testbed.url={u}", f"testbed.slots={s}"]) for u, s in given}
    assert len(names) == len(given) - 2  # a list of one is written like itself
    assert all("http" not in name and len(name) < 60 for name in names)


def test_an_experiment_is_named_by_its_cluster_too() -> None:
    overrides = ["experiment=paper", "cluster=constant", "experiment.episodes=3"]
    assert options_suffix(overrides, experiment=True) == "_cluster-constant_experiment.episodes-3"


TEXTS = st.text(st.characters(codec="utf-8"), max_size=300)
OPTIONS = st.dictionaries(st.sampled_from(["workload.path", "episodes", "+policy.x"]), TEXTS)


@given(OPTIONS, OPTIONS)
def test_any_options_have_a_name_of_their_own_that_every_file_system_takes(
    one: dict[str, str], other: dict[str, str]
) -> None:
    names = [options_suffix([f"{k}={v}" for k, v in given.items()]) for given in (one, other)]
    assert (names[0].lower() == names[1].lower()) == (one == other)
    for name in names:
        assert len(name) <= LONGEST + 10
        assert name == "" or name[0] == "_"
        assert not name.endswith(".")
        assert set(name) <= {*string.ascii_letters, *string.digits, *".+_-"}


def test_the_longest_name_is_short_enough() -> None:
    front = max(map(len, map("_".join, product(POLICIES, WORKLOADS, CLUSTERS))))
    assert front + len("train__load100000.0_oracle_seed1234567890") + LONGEST + 10 < 200


def test_a_sweep_and_later_runs_keep_all_results(command: Command) -> None:
    assert command("-m", "cluster.engines=1,4")[0] == 0
    assert command("workload.arrival_rate=9")[0] == 0
    assert command("workload.arrival_rate=9")[0] == 0, "the same again"
    found = sorted(path.parent.name for path in Path("outputs").glob("*/summary.json"))
    assert len(found) == 3
    assert ["cluster.engines-1" in found[0], "cluster.engines-4" in found[1]] == [True, True]


def test_results_of_other_settings_are_replaced_on_request_only(command: Command) -> None:
    Path("out").mkdir()
    Path("out/notes.txt").write_text("mine")
    assert command("output_dir=out")[0] == 0
    before = Path("out/summary.json").read_bytes()
    for argument, difference in (
        ("seed=1", "with seed=0, not 1"),
        ("policy=fair", "with policy.name=fcfs, not fair"),
        ("baselines=[sjf]", "with baselines=[], not ['sjf']"),
        ("policy=srtf", "without policy.demand"),
    ):
        code, out, err = command("output_dir=out", argument)
        assert (code, out) == (2, "")
        assert err.replace('"', "'") == (
            f"evaluate.py: output_dir: out holds results made {difference}; choose another "
            "output_dir, or overwrite=true replaces them\n"
        )
        assert Path("out/summary.json").read_bytes() == before
    assert command("output_dir=out")[0] == 0, "the same settings"
    assert command("output_dir=out", "seed=1", "overwrite=true")[0] == 0
    assert json.loads(Path("out/summary.json").read_text())["settings"]["seed"] == 1
    assert Path("out/notes.txt").read_text() == "mine"
    assert len(os.listdir("out")) == 6


NO_SUMMARIES = ["", "{", "[1]", "{}", "7", "\ufffd", '{"policies": {}}', "[" * 99999]


@pytest.mark.parametrize("text", NO_SUMMARIES)
def test_a_summary_of_somebody_else_is_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(ValueError, match=r"summary.json is not of these commands; choose another"):
        check_replaceable(tmp_path, {"seed": 0})


SETTINGS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
)  # fmt: skip


@given(st.dictionaries(st.text(max_size=3), SETTINGS))
def test_settings_are_the_same_after_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, settings: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("out")
    check_written(settings)
    text = json.dumps({"settings": settings}, allow_nan=False)
    (folder / "summary.json").write_text(text, encoding="utf-8")
    check_replaceable(folder, settings)
    with pytest.raises(ValueError, match="holds results made"):
        check_replaceable(folder, settings | {"new option": 1})


@pytest.mark.parametrize("value", [float("inf"), float("nan"), [1, [-float("inf")]], b"x"])
def test_what_a_summary_cannot_hold_is_found_before_the_work(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^policy\.price: "):
        check_written({"seed": 0, "policy": {"name": "llmsched", "price": value}})


def test_an_infinite_option_ends_with_one_line_before_the_work(command: Command) -> None:
    code, out, err = command("policy=llmsched_priced", "policy.price=inf", "output_dir=out")
    assert (code, out) == (2, "")
    assert err == "evaluate.py: policy.price: inf is not a finite number\n"
    assert os.listdir() == []
