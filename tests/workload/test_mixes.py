"""Workloads by name: what is in them, how episodes are drawn, and what is kept apart."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmsched_gym.workload.applications import APPLICATIONS, CLASSES
from llmsched_gym.workload.arrivals import Burst, InterruptedPoisson, Poisson, Recorded
from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.job import (
    MAX_DURATION_S,
    MAX_STAGES,
    MAX_TOKENS,
    Job,
    Kind,
    LLMTask,
    Stage,
)
from llmsched_gym.workload.mixes import WORKLOADS, Workload, arrival_rate, make_workload
from llmsched_gym.workload.traces import TraceError, load_traces, read_traces, write_traces
from support.strategies import llm, tool

KNOWN_KEYS = (
    "app job_id arrival_s stages id name kind parents tasks revealed_by resource prompt_tokens "
    "output_tokens duration_s"
).split()
GENERATED = [name for name in WORKLOADS if name not in ("traces", "described")]


def per_application(bank: JobBank) -> Counter[str]:
    return Counter(bank.applications[index] for index in bank.job_application)


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    """40 jobs of `search`, 40 of `chat`."""
    folder = tmp_path / "traces"
    folder.mkdir()
    for application, stage in (("search", tool()), ("chat", llm())):
        some = [Job(application, f"{application}-{n}", (stage,)) for n in range(40)]
        write_traces(folder / f"{application}.jsonl", some)
    return folder


def test_the_names() -> None:
    assert ("mixed", *CLASSES, *APPLICATIONS, "traces", "described") == WORKLOADS
    assert len(set(WORKLOADS)) == len(WORKLOADS)


@pytest.mark.parametrize("name", GENERATED)
def test_generated_banks_hold_as_many_jobs_of_each_application(name: str) -> None:
    workload = make_workload(name, jobs_per_application=7)
    papers = tuple(name for row in CLASSES.values() for name in row)
    members = {"mixed": papers, **CLASSES}.get(name, (name,))
    for bank in (workload.bank, workload.past):
        assert per_application(bank) == dict.fromkeys(members, 7)
    assert isinstance(workload.arrivals, Poisson)
    assert not set(workload.bank.job_ids) & set(workload.past.job_ids)


def test_past_and_evaluated_jobs_are_drawn_apart() -> None:
    workload = make_workload("web_search", jobs_per_application=50)

    def bodies(bank: JobBank) -> list[Any]:
        return [job.stages for job in bank.jobs()]

    assert bodies(workload.bank) != bodies(workload.past)
    assert len({*bodies(workload.bank)} & {*bodies(workload.past)}) < 5  # short ones may coincide


def test_a_larger_bank_begins_with_the_smaller() -> None:
    small, large = (make_workload("planning", jobs_per_application=n) for n in (3, 9))
    assert {*small.bank.jobs()} < {*large.bank.jobs()}


def test_generated_banks_are_made_once() -> None:
    assert make_workload("mixed").bank is make_workload("mixed").bank


def test_generated_jobs_are_the_same_in_another_process() -> None:
    program = (
        "from llmsched_gym.workload.mixes import make_workload as m\n"
        "w = m('mixed', jobs_per_application=5)\n"
        "print([int(b.output_tokens.sum()) for b in (w.bank, w.past)], w.bank.duration_s.sum())"
    )
    workload = make_workload("mixed", jobs_per_application=5)
    sums = [int(bank.output_tokens.sum()) for bank in (workload.bank, workload.past)]
    expected = f"{sums} {workload.bank.duration_s.sum()}"
    root = Path(__file__).parents[2]
    for seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            cwd=root,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
        )
        assert run.stdout.strip() == expected


def test_draw_is_uniform_and_seeded() -> None:
    workload = make_workload("planning", jobs_per_application=10)
    picked, arrival_s = workload.draw(np.random.default_rng(3), 20_000, 2.0)
    assert picked.dtype == np.int64
    assert arrival_s.dtype == np.float64
    counts = np.bincount(picked, minlength=20)
    assert counts.min() > 850  # 1000 expected each
    assert counts.max() < 1150
    assert arrival_s[-1] == pytest.approx(10_000, rel=0.05)
    again, arrival_again = workload.draw(np.random.default_rng(3), 20_000, 2.0)
    np.testing.assert_array_equal(picked, again)
    np.testing.assert_array_equal(arrival_s, arrival_again)
    other, _ = workload.draw(np.random.default_rng(4), 20_000, 2.0)
    assert (picked != other).any()


def test_another_rate_brings_the_same_jobs() -> None:
    workload = make_workload("planning", jobs_per_application=10)
    slow, slow_s = workload.draw(np.random.default_rng(0), 50, 1.0)
    fast, fast_s = workload.draw(np.random.default_rng(0), 50, 2.0)
    np.testing.assert_array_equal(slow, fast)
    np.testing.assert_allclose(slow_s, 2 * fast_s)


@pytest.mark.parametrize("count", [0, -1])
def test_an_episode_has_jobs(count: int) -> None:
    with pytest.raises(ValueError, match=f"num_jobs: {count} is below 1"):
        make_workload("planning", jobs_per_application=1).draw(np.random.default_rng(0), count, 1.0)


def test_traces_are_split_by_name(traces: Path) -> None:
    workload = make_workload("traces", path=traces)
    past, evaluated = set(workload.past.jobs()), set(workload.bank.jobs())
    assert past | evaluated == set(read_traces(traces))
    assert not past & evaluated
    assert 45 <= len(past) <= 67  # 56 of 80 expected
    assert workload.notes == (f"traces: {len(evaluated)} jobs to evaluate, {len(past)} past jobs",)


def test_the_split_of_a_job_depends_on_its_own_name_alone(traces: Path) -> None:
    whole = set(make_workload("traces", path=traces).past.jobs())
    alone = make_workload("traces", path=traces / "chat.jsonl")
    assert set(alone.past.jobs()) == {job for job in whole if job.application == "chat"}
    moved = traces / "moved.jsonl"
    write_traces(moved, read_traces(traces / "chat.jsonl")[::-1])
    assert set(make_workload("traces", path=moved).past.jobs()) == set(alone.past.jobs())


def test_the_split_is_the_same_everywhere(traces: Path) -> None:
    """Evaluated are those whose SHA-256 (of "chat\\0chat-n") begins with b333 or more."""
    workload = make_workload("traces", path=traces / "chat.jsonl")
    evaluated = (4, 14, 17, 19, 21, 26, 27, 30, 33, 36)  # by the command sha256sum
    assert workload.bank.job_ids == tuple(f"chat-{number}" for number in evaluated)


def test_training_files_are_the_past_and_everything_else_is_evaluated(
    traces: Path, tmp_path: Path
) -> None:
    train = tmp_path / "train.jsonl"
    wanted = [Job("chat", f"past-{n}", (llm("other"),)) for n in range(3)]
    write_traces(train, [*wanted, Job("not evaluated", "x", (llm(),))])
    workload = make_workload("traces", path=traces, train_path=train)
    assert workload.past.jobs() == wanted
    assert workload.bank.jobs() == read_traces(traces)


def test_a_past_job_is_never_evaluated(traces: Path) -> None:
    with pytest.raises(ValueError, match="train_path: 40 of its jobs are also in path, such as se"):
        make_workload("traces", path=traces, train_path=traces / "search.jsonl")


def test_replay_takes_jobs_in_file_order_again_and_again(traces: Path) -> None:
    workload = make_workload("traces", path=traces, replay=True)
    count = len(workload.bank)
    picked, arrival_s = workload.draw(np.random.default_rng(0), count + 3, 1.0)
    np.testing.assert_array_equal(picked, [*range(count), 0, 1, 2])
    assert picked.dtype == np.int64
    assert len(arrival_s) == count + 3
    order = [job for job in read_traces(traces) if job in set(workload.bank.jobs())]
    assert workload.bank.jobs() == order


def test_traces_of_some_applications(traces: Path) -> None:
    for chosen in (["chat"], "chat"):
        workload = make_workload("traces", path=traces, applications=chosen)
        assert workload.bank.applications == workload.past.applications == ("chat",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"name": "nosuch"},
            f"workload: unknown 'nosuch', choose from {', '.join(sorted(WORKLOADS))}$",
        ),
        ({"name": "chain-like"}, r"workload: unknown 'chain-like' \(did you mean 'chain_like'\?\)"),
        (
            {"name": "mixed", "arrivals": "nosuch"},
            "arrivals: unknown 'nosuch', choose from burst, interrupted_poisson, po",
        ),
        ({"name": "mixed", "arrivals": "poison"}, r"\(did you mean 'poisson'\?\)"),
        ({"name": "mixed", "arrivals": "recorded"}, "arrivals_path: arrivals=recorded needs a CSV"),
        (
            {"name": "mixed", "arrivals_path": "x.csv"},
            "arrivals_path: only arrivals=recorded takes",
        ),
        ({"name": "mixed", "arrivals_column": "t"}, "arrivals_column: only arrivals=recorded"),
        ({"name": "mixed", "path": "x"}, "path: only workload=traces takes it, not mixed"),
        ({"name": "mixed", "train_path": "x"}, "train_path: only workload=traces takes it"),
        ({"name": "mixed", "applications": ["x"]}, "applications: only workload=traces takes it"),
        ({"name": "mixed", "training": True}, "training: only workload=traces takes it"),
        ({"name": "mixed", "replay": True}, "replay: only workload=traces takes it"),
        ({"name": "mixed", "jobs_per_application": 0}, "jobs_per_application: 0 is below 1"),
        (
            {"name": "mixed", "jobs_per_application": 10**9},
            "jobs_per_application: 1000000000 is not",
        ),
        (
            {"name": "mixed", "jobs_per_application": 2.5},
            "jobs_per_application: 2.5 is not a whole",
        ),
        (
            {"name": "mixed", "jobs_per_application": True},
            "jobs_per_application: True is not a who",
        ),
        (
            {"name": "mixed", "jobs_per_application": "9"},
            "jobs_per_application: '9' is not a whole",
        ),
        (
            {"name": "mixed", "on_bad_job": "ignore"},
            "on_bad_job: unknown 'ignore', choose from err",
        ),
        ({"name": "mixed", "arrivals": 5}, "arrivals: 5 is neither a name nor has it draw"),
        ({"name": "mixed", "path": Path("x")}, "path: only workload=traces takes it, not mixed"),
        ({"name": 5}, "workload: 5 is neither a name nor a path nor a Workload"),
        ({"name": None}, "workload: None is neither a name nor a path nor a Workload"),
        ({"name": Path("a.jsonl"), "path": "b.jsonl"}, "path: given twice, as 'a.jsonl' too"),
        ({"name": "traces", "path": 5}, "path: 5 is not a path"),
        ({"name": "traces"}, "path: workload=traces needs"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        make_workload(**options)
    assert "\n" not in str(error.value)


def test_unknown_applications_are_named_with_those_there_are(traces: Path) -> None:
    message = r"applications: unknown 'chatt' \(did you mean 'chat'\?\), choose from chat, search$"
    with pytest.raises(ValueError, match=message):
        make_workload("traces", path=traces, applications=["search", "chatt"])


def test_a_split_that_leaves_nothing_is_refused(tmp_path: Path) -> None:
    one = tmp_path / "one.jsonl"
    found = set()
    for number in range(20):
        write_traces(one, [Job("app", str(number), (llm(),))])
        with pytest.raises(ValueError, match=r"path: .*one\.jsonl: the split leaves no") as error:
            make_workload("traces", path=one)
        found.add(str(error.value).partition("leaves ")[2])
    assert found == {
        "no job to evaluate (1 jobs read)",
        "no past job of those to evaluate (1 jobs read)",
    }


def test_training_draws_from_past_jobs_that_beliefs_are_not_fitted_on(
    traces: Path, tmp_path: Path
) -> None:
    evaluation = make_workload("traces", path=traces)
    training = make_workload("traces", path=traces, training=True)
    fitted, drawn = set(training.past.jobs()), set(training.bank.jobs())
    assert fitted | drawn == set(evaluation.past.jobs())
    assert not fitted & drawn
    assert len(drawn) / len(evaluation.past) == pytest.approx(0.3, abs=0.15)
    assert training.notes == (f"traces: {len(drawn)} jobs to train on, {len(fitted)} past jobs",)

    train = tmp_path / "train.jsonl"
    past = [Job("chat", f"past-{n}", (llm("other"),)) for n in range(30)]
    write_traces(train, past)
    by_files = make_workload("traces", path=traces, train_path=train, training=True)
    assert {*by_files.past.jobs(), *by_files.bank.jobs()} == set(past)


def test_training_files_without_the_application_are_refused(traces: Path, tmp_path: Path) -> None:
    train = tmp_path / "train.jsonl"
    write_traces(train, [Job("other", "1", (llm(),))])
    with pytest.raises(ValueError, match=r"train_path: .*train\.jsonl: leaves no past job"):
        make_workload("traces", path=traces, train_path=train)


def test_errors_of_files_pass_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        make_workload("traces", path=tmp_path / "nowhere")
    with pytest.raises(TraceError, match=r"no \*\.jsonl file"):
        make_workload("traces", path=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv"):
        make_workload("mixed", arrivals="recorded", arrivals_path=tmp_path / "nowhere.csv")


def test_arrivals_by_name_or_object(tmp_path: Path) -> None:
    make: Callable[..., Workload] = make_workload
    assert isinstance(make("planning", jobs_per_application=1, arrivals="burst").arrivals, Burst)
    for name, process in (("interrupted_poisson", InterruptedPoisson), ("poisson", Poisson)):
        workload = make("planning", jobs_per_application=1, arrivals=name)
        assert type(workload.arrivals) is process
        assert workload.has_rate
    own = Recorded([0.0, 1.0])
    assert make("planning", jobs_per_application=1, arrivals=own).arrivals is own
    file = tmp_path / "arrivals.csv"
    file.write_text("n,t\n1,5\n2,6\n")
    recorded = make(
        "planning",
        jobs_per_application=1,
        arrivals="recorded",
        arrivals_path=file,
        arrivals_column="t",
    )
    np.testing.assert_allclose(recorded.draw(np.random.default_rng(0), 3, 2.0)[1], [0, 0.5, 1.0])


def test_arrival_rate_by_hand() -> None:
    assert arrival_rate(0.9, 32, 16.0) == pytest.approx(1.8)


@pytest.mark.parametrize("load", [0.0, -1.0, float("nan"), float("inf")])
def test_load_is_positive_and_finite(load: float) -> None:
    with pytest.raises(ValueError, match=r"load: .* is not a positive number"):
        arrival_rate(load, 32, 16.0)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_load_needs_llm_work(seconds: float) -> None:
    with pytest.raises(ValueError, match=r"load: of jobs with .* give an arrival rate"):
        arrival_rate(1.0, 32, seconds)


def test_real_traces_make_a_workload(shared: Path) -> None:
    workload = make_workload("traces", path=shared / "traces", applications=["factool_kbqa"])
    assert len(workload.bank) + len(workload.past) == 186
    assert 0.6 < len(workload.past) / 186 < 0.8


# --- Traces as people have them -------------------------------------------------------------------


def test_a_path_stands_for_traces(traces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(traces.parent)
    monkeypatch.setenv("HOME", str(traces.parent))
    expected = make_workload("traces", path=traces)
    for path in (traces, str(traces), "traces/", "~/traces", Path("~/traces"), Path("traces")):
        workload = make_workload(path)
        assert workload.name == "traces"
        assert workload.bank.jobs() == expected.bank.jobs()
    (traces.parent / "folder").mkdir()
    for path, error in (("folder", TraceError), ("no.jsonl", FileNotFoundError), ("a/b", OSError)):
        with pytest.raises(error):
            make_workload(path)


def at(number: int, arrival_s: float | None = None) -> Job:
    task = LLMTask(10 + number, 5)
    return Job("chat", str(number), (Stage("x", Kind.LLM, (), (task,)),), arrival_s)


def played(workload: Workload, count: int, rate: float, seed: int = 0) -> tuple[list[int], Any]:
    """Numbers of the jobs, and when they arrive."""
    picked, arrival_s = workload.draw(np.random.default_rng(seed), count, rate)
    return [int(workload.bank.job_ids[index]) for index in picked], arrival_s


@pytest.fixture
def past(tmp_path: Path) -> Path:
    file = tmp_path / "past.jsonl"
    write_traces(file, [at(1000 + number) for number in range(30)])
    return file


def test_a_replayed_job_arrives_when_it_did(tmp_path: Path, past: Path) -> None:
    times = [0.0, 50.0, 3.0, 2.0, 1.0, 50.1]  # not in the order of the file
    write_traces(tmp_path / "jobs.jsonl", [at(n, 7e9 + time) for n, time in enumerate(times)])
    options: dict[str, Any] = {"path": tmp_path / "jobs.jsonl", "train_path": past, "replay": True}
    workload = make_workload("traces", **options)
    for seed in range(3):
        numbers, arrival_s = played(workload, 6, 5 / 50.1, seed)
        assert numbers == [0, 4, 3, 2, 1, 5]
        np.testing.assert_allclose(arrival_s, sorted(times), atol=1e-5)
    numbers, arrival_s = played(workload, 8, 7 / (50.1 + 50.1 / 5 + 1))  # from the start again
    assert numbers == [0, 4, 3, 2, 1, 5, 0, 4]
    np.testing.assert_allclose(arrival_s[6:], [50.1 + 50.1 / 5, 50.1 + 50.1 / 5 + 1], atol=1e-5)
    poisson = make_workload("traces", **options, arrivals="poisson")
    assert played(poisson, 6, 1.0)[0] == list(range(6))
    assert isinstance(poisson.arrivals, Poisson)


def test_without_replay_or_with_a_gap_recorded_arrivals_play_no_part(
    tmp_path: Path, past: Path
) -> None:
    write_traces(tmp_path / "jobs.jsonl", [at(n, n) for n in range(6)])
    workload = make_workload("traces", path=tmp_path / "jobs.jsonl", train_path=past)
    assert isinstance(workload.arrivals, Poisson)
    write_traces(tmp_path / "jobs.jsonl", [at(0), *(at(n, n) for n in range(1, 6))])
    workload = make_workload("traces", path=tmp_path / "jobs.jsonl", train_path=past, replay=True)
    assert isinstance(workload.arrivals, Poisson)
    write_traces(tmp_path / "jobs.jsonl", [at(n, 3.0) for n in range(6)])
    message = "replay: arrivals of the jobs: timestamps: all are equal; try arrivals=burst"
    with pytest.raises(ValueError, match=message):
        make_workload("traces", path=tmp_path / "jobs.jsonl", train_path=past, replay=True)


def test_a_replayed_job_arrives_at_its_row_of_a_csv(tmp_path: Path, past: Path) -> None:
    """Whatever is split off, left out or not chosen: job i of the file goes with time i."""
    times = np.cumsum(np.arange(1.0, 41.0))
    jobs = [at(n) for n in range(40)]
    jobs[5] = replace(jobs[5], application="other")
    write_traces(tmp_path / "jobs.jsonl", jobs)
    lines = (tmp_path / "jobs.jsonl").read_text().splitlines()
    lines[3] = lines[3].replace('"output_tokens":5', '"output_tokens":0')
    (tmp_path / "jobs.jsonl").write_text("\n".join(lines))
    (tmp_path / "times.csv").write_text("\n".join(map(str, times)))
    options: dict[str, Any] = {
        "path": tmp_path / "jobs.jsonl",
        "replay": True,
        "arrivals": "recorded",
        "arrivals_path": tmp_path / "times.csv",
        "on_bad_job": "skip",
        "applications": ["chat"],
    }
    for more in ({}, {"train_path": past}):
        workload = make_workload("traces", **(options | more))
        count = len(workload.bank)
        numbers, arrival_s = played(workload, count, 1.0)
        left = [number for number in range(40) if number not in (3, 5)]
        assert numbers == (left if more else [number for number in left if number in numbers])
        expected = times[numbers] - times[numbers[0]]
        np.testing.assert_allclose(arrival_s, expected * (count - 1) / expected[-1])
        less = workload.only([1, 4, 6], range(len(workload.past)), "fewer")
        kept, arrival_s = played(less, 3, 1.0)
        assert kept == [numbers[index] for index in (1, 4, 6)]
        expected = times[kept] - times[kept[0]]
        np.testing.assert_allclose(arrival_s, expected * 2 / expected[-1])
        assert less.notes[-1] == "fewer"


def test_a_workload_by_hand_replays_from_the_first_timestamp() -> None:
    bank = JobBank.from_jobs([at(n) for n in range(3)])
    workload = Workload("own", bank, bank, Recorded([0.0, 1.0, 4.0]), replay=True)
    for seed in range(5):
        numbers, arrival_s = played(workload, 3, 0.5, seed)
        assert numbers == [0, 1, 2]
        np.testing.assert_allclose(arrival_s, [0, 1, 4])


def test_a_workload_says_whether_it_has_a_rate() -> None:
    bank = JobBank.from_jobs([at(0)])

    class Own:
        def draw(self, rng: np.random.Generator, count: int, rate: float) -> Any:
            return np.zeros(count)

    arrivals: list[Any] = [Poisson(), Burst(), Own()]
    rates = [Workload("own", bank, bank, one).has_rate for one in arrivals]
    assert rates == [True, False, True]
    with pytest.raises(ValueError, match="on_bad_job: unknown 'drop', choose from error, skip"):
        Workload("own", bank, bank, Burst(), on_bad_job="drop")


def test_notes_tell_what_was_left_out(traces: Path) -> None:
    file = traces / "chat.jsonl"
    lines = file.read_text().splitlines()
    lines[0] = lines[0].replace('"output_tokens":5', '"output_tokens":0')
    file.write_text("\n".join(line.replace('"app"', '"user":1,"app"') for line in lines))
    with pytest.raises(
        TraceError, match=r"chat\.jsonl:1: stages\[0\]\.tasks\[0\]\.output_tokens: 0"
    ):
        make_workload("traces", path=traces)
    notes = make_workload("traces", path=traces, on_bad_job="skip").notes
    assert notes[1] == "traces: ignored keys job.user (docs/workloads.md, trace format)"
    assert notes[2].startswith("traces: 1 jobs left out: 1 x stages[].tasks[].output_tokens: 0 is")


@pytest.mark.parametrize("name", GENERATED)
def test_output_limits_of_a_workload_are_those_of_past_jobs(name: str) -> None:
    workload = make_workload(name, jobs_per_application=20)
    limit = workload.bank.output_limit
    again = replace(workload, bank=workload.bank.select([0, 1, len(workload.bank) - 1]))
    names = workload.bank.applications
    assert [limit[names.index(name)] for name in again.bank.applications] == list(
        again.bank.output_limit
    )
    assert replace(workload).bank is workload.bank


def test_the_default_limits_hold_nothing_back_on_the_smallest_engine() -> None:
    """So that no decision depends on how long the evaluated jobs are."""
    bank = make_workload("mixed").bank
    need = bank.prompt_tokens + bank.output_limit[bank.job_application[bank.task_job]]
    assert 8 * need[bank.prompt_tokens > 0].max() < 107_810


def test_the_documented_format_is_read(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "workloads.md").read_text()
    section = text[text.index("## Trace format") :]
    (example,) = re.findall(r"```json\n(.*?)```", section, re.DOTALL)[:1]
    (tmp_path / "jobs.jsonl").write_text(example)
    jobs, _, notes = load_traces(tmp_path / "jobs.jsonl")
    assert len(jobs) >= 2
    assert not notes
    seen = {key for line in example.splitlines() for key in keys_of(json.loads(line))}
    for key in KNOWN_KEYS:
        assert key in seen
        assert f"`{key}`" in section
    table = section[: section.index("##", 5)]
    for number in (f"{MAX_TOKENS:,}", f"{MAX_DURATION_S:,.0f}", f"{MAX_STAGES:,}", "255"):
        assert number in table


def keys_of(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
    for inner in value.values() if isinstance(value, dict) else value:
        if isinstance(inner, dict | list):
            yield from keys_of(inner)
