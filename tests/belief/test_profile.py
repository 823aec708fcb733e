"""Fitting networks to past jobs, and keeping them on disk."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llmsched_gym import notes
from llmsched_gym.belief import fitting, networks, structure
from llmsched_gym.belief import profile as profile_module
from llmsched_gym.belief.fitting import fit_profile, load_or_fit
from llmsched_gym.belief.inference import compile_profile
from llmsched_gym.belief.networks import separators_of
from llmsched_gym.belief.profile import BeliefProfile, BeliefSettings, Bins
from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.job import Job, Kind, LLMTask, RegularTask, Stage
from llmsched_gym.workload.mixes import make_workload
from support.moments import CLUSTER, believe, moment, stage
from support.strategies import banks

LATENCY = CLUSTER.latency
PLAIN = BeliefSettings(min_jobs=1000)


def fan_out(number: int, application: str = "app") -> Job:
    """A plan that reveals 0 to 3 tools, each as long as the plan; with none, another plan."""
    count = number % 4
    time = 1.0 + (number * 7919 % 13)
    stages = [Stage("plan", Kind.LLM, (), (LLMTask(1, round(time * 50)),))]
    if count:
        tools = tuple(RegularTask(time) for _ in range(count))
        stages.append(Stage("tools", Kind.REGULAR, (0,), tools, 0))
    else:
        stages.append(Stage("again", Kind.LLM, (0,), (LLMTask(1, 100),), 0))
    return Job(application, f"job-{number}", tuple(stages))


@pytest.fixture(scope="module")
def past() -> JobBank:
    return JobBank.from_jobs(fan_out(number) for number in range(200))


@pytest.fixture(scope="module")
def fitted(past: JobBank) -> BeliefProfile:
    return fit_profile(past, LATENCY)


def same(a: Any, b: Any) -> bool:
    """Whether two profiles, or parts of them, are equal to the last bit."""
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple) and not isinstance(a, str):
        return len(a) == len(b) and all(map(same, a, b))
    if hasattr(a, "__dataclass_fields__"):
        return type(a) is type(b) and all(
            same(getattr(a, field.name), getattr(b, field.name)) for field in fields(a)
        )
    return bool(a == b)


# --- Bins -------------------------------------------------------------------------------------


def fit_bins(values: Sequence[float], bins: int = 6) -> Bins:
    return Bins.fit(np.array(values, np.float64), np.ones(len(values)), bins)


def test_no_values() -> None:
    assert len(fit_bins([])) == 2
    assert fit_bins([]).mean.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("values", [[5.0], [5.0] * 30])
def test_one_distinct_value(values: list[float]) -> None:
    bins = fit_bins(values)
    for column in (bins.least, bins.mean, bins.most):
        assert column.tolist() == [0.0, 5.0]
    assert bins.variance.tolist() == [0.0, 0.0]
    assert bins.state(np.array([0.0, 5.0, 1e9])).tolist() == [1, 1, 1]


def test_few_distinct_values_get_a_bin_each() -> None:
    bins = fit_bins([3.0, 1.0, 1.0, 7.0])
    assert bins.mean.tolist() == [0.0, 1.0, 3.0, 7.0]
    assert bins.state(np.array([0.0, 1.9, 2.1, 4.9, 5.1, 99.0])).tolist() == [1, 1, 2, 2, 3, 3]


@given(st.lists(st.floats(0, 100), min_size=1, max_size=60), st.integers(1, 8))
def test_bins_hold_the_values(values: list[float], bins: int) -> None:
    array = np.array(values)
    assume((np.diff(np.unique(array)) > 1e-9).all())  # halfway between them is neither of them
    fitted = fit_bins(values, bins)
    assert 2 <= len(fitted) <= bins + 1
    assert (fitted.least <= fitted.mean + 1e-9).all()
    assert (fitted.mean <= fitted.most + 1e-9).all()
    assert (fitted.most[1:-1] < fitted.least[2:]).all()
    state = fitted.state(array)
    assert (fitted.least[state] <= array).all()
    assert (array <= fitted.most[state]).all()
    for k in range(1, len(fitted)):
        assert fitted.mean[k] == pytest.approx(array[state == k].mean())
        assert fitted.variance[k] == pytest.approx(array[state == k].var(), abs=1e-6)


# --- Fitted networks --------------------------------------------------------------------------


def check_networks(profile: BeliefProfile) -> None:
    """What must hold of every fitted network."""
    for name, network in profile.networks.items():
        template = profile.templates[name]
        assert len(network.demand) == len(network.fanout) == len(template.stages)
        for c, (variable, fanout) in enumerate(zip(network.demand, network.fanout, strict=True)):
            bins, counts = network.demand_bins[c], network.fanout_bins[c]
            assert network.states[variable] == len(bins)
            if network.prompt[c] >= 0:
                assert template.kinds[c] == Kind.LLM
                assert fanout < network.prompt[c] < variable
                assert network.states[network.prompt[c]] == len(network.prompt_bins[c])
                assert any(network.prompt[c] in row for row in network.parents)
            if fanout >= 0:
                assert network.states[fanout] == len(counts)
                assert fanout in network.parents[variable]
                absent = np.moveaxis(
                    network.tables[variable], network.parents[variable].index(fanout), 0
                )
                assert (absent[0, ..., 0] == 1.0).all()  # absent if and only if there is no task
                assert (absent[1:, ..., 0] == 0.0).all()
        for variable, (parents, table) in enumerate(
            zip(network.parents, network.tables, strict=True)
        ):
            assert list(parents) == sorted(parents)
            assert all(parent < variable for parent in parents)
            assert len(parents) <= profile.settings.max_parents
            assert table.shape == (*(network.states[p] for p in parents), table.shape[-1])
            assert (table >= 0).all()
            np.testing.assert_allclose(table.sum(axis=-1), 1.0, rtol=0, atol=1e-12)


def test_fitted_networks_are_sound(fitted: BeliefProfile) -> None:
    check_networks(fitted)
    assert fitted.notes == ()
    assert fitted.networks["app"].edges


@settings(max_examples=6)
@given(banks(max_size=8))
def test_any_past_can_be_fitted(past: JobBank) -> None:
    for chosen in (BeliefSettings(min_jobs=2), BeliefSettings()):
        profile = fit_profile(past, LATENCY, chosen)
        check_networks(profile)
        for index in range(len(past)):
            job = past.job(index)
            shown = replace(
                moment(*job.stages, application=job.application), names=job.canonical_names()
            )
            beliefs = believe(profile, shown)
            assert np.isfinite(beliefs.stages["demand_s"]).all()
            assert beliefs.jobs["skipped"][0] <= len(job.stages)


@pytest.mark.slow
def test_generated_applications_are_sound() -> None:
    check_networks(load_or_fit(make_workload("mixed").past, LATENCY))


@pytest.mark.slow
def test_traces_are_sound(shared: Path) -> None:
    past = make_workload("traces", path=shared / "traces").past
    profile = load_or_fit(past, LATENCY)
    check_networks(profile)
    for name, number in zip(past.applications, np.bincount(past.job_application), strict=True):
        noted = any(note.startswith(f"{name}:") for note in profile.notes)
        assert noted == (number < profile.settings.min_jobs)


def test_fitting_is_deterministic(past: JobBank, fitted: BeliefProfile) -> None:
    assert same(fit_profile(past, LATENCY), fitted)


def test_what_the_network_learns(fitted: BeliefProfile) -> None:
    """The tools take as long each as the plan took; without a tool there is another plan."""
    stages = fitted.templates["app"].stages
    tools, again = stages.index("tools#1"), stages.index("again#1")
    job = fan_out(3)
    before = believe(fitted, moment(*job.stages)).stages[0]
    assert before["presence"][tools] == pytest.approx(0.75, abs=0.02)
    assert before["presence"][again] == pytest.approx(0.25, abs=0.02)
    past = [fan_out(number) for number in range(200)]
    mean = sum(
        task.duration_s for job in past for task in job.tasks() if isinstance(task, RegularTask)
    ) / len(past)
    assert before["demand_s"][tools] == pytest.approx(mean, rel=0.05)
    plan_s = job.stages[0].tasks[0].output_tokens * 0.02  # type: ignore[union-attr]
    after = believe(fitted, moment(*job.stages, completed=[1])).stages[0]
    assert after["presence"].tolist() == [1.0 if c in (0, tools) else 0.0 for c in range(3)]
    assert after["demand_s"][tools] == pytest.approx(3 * plan_s, rel=0.25)


def test_what_cannot_be_revealed_has_next_to_no_weight() -> None:
    """Rounds that follow each other: none comes after one that is absent."""
    jobs = [Job("app", f"job-{number}", tuple(rounds(1 + number * 31 % 5))) for number in range(60)]
    network = fit_profile(JobBank.from_jobs(jobs), LATENCY).networks["app"]
    for variable, parents in enumerate(network.parents):
        if parents:
            assert network.tables[variable][(0,) * len(parents)][0] > 0.999


def rounds(count: int) -> list[Stage]:
    return [
        stage("round", *range(max(number - 1, 0), number), by=number - 1 if number else None)
        for number in range(count)
    ]


# --- Prompts ------------------------------------------------------------------------------------


def summary(number: int, prompt: int) -> Job:
    """A call whose output may be as long as its prompt, then a tool that takes as long."""
    tokens = 50 * (1 + number % 8)
    stages = (Stage("call", Kind.LLM, (), (LLMTask(prompt, tokens),)), stage("tool", 0))
    tool = replace(stages[1], tasks=(RegularTask(0.02 * tokens),))
    return Job("app", f"job-{number}", (stages[0], tool))


def told(number: int) -> int:
    return 10 * (1 + number % 8)


def test_prompts_that_tell_are_variables() -> None:
    past = JobBank.from_jobs(summary(number, told(number)) for number in range(200))
    profile = fit_profile(past, LATENCY, BeliefSettings(bins=8))
    check_networks(profile)
    network = profile.networks["app"]
    assert network.prompt.tolist() == [0, -1]
    assert len(network.prompt_bins[0]) == 1 + max(structure.PROMPT_BINS)
    for number in range(8):
        job = moment(*summary(number, told(number)).stages)
        row = believe(profile, job).jobs[0]
        seconds = 1.0 + number
        assert row["llm_s"] == pytest.approx(seconds, rel=0.1)
        assert row["regular_s"] == pytest.approx(seconds, rel=0.1)


def test_a_prompt_gets_as_many_bins_as_the_past_bears() -> None:
    def states(jobs: int) -> int:
        past = JobBank.from_jobs(summary(number, told(number)) for number in range(jobs))
        network = fit_profile(past, LATENCY, BeliefSettings(bins=8)).networks["app"]
        return len(network.prompt_bins[0])

    assert [states(jobs) for jobs in (20, 60, 200)] == sorted(states(j) for j in (20, 60, 200))
    assert states(20) < states(200)


def test_prompts_that_tell_nothing_are_none(past: JobBank, fitted: BeliefProfile) -> None:
    """Whatever the prompts, the network is the one without."""
    rng = np.random.default_rng(0)
    prompts = rng.integers(1, 10**6, 200).tolist()
    jobs = [summary(number, prompt) for number, prompt in enumerate(prompts)]
    without = BeliefSettings(prompts=False)
    network = fit_profile(JobBank.from_jobs(jobs), LATENCY).networks["app"]
    plain = fit_profile(JobBank.from_jobs(jobs), LATENCY, without).networks["app"]
    assert same(network, plain)
    assert (network.prompt == -1).all()
    tell = JobBank.from_jobs(summary(number, told(number)) for number in range(200))
    assert same(fit_profile(tell, LATENCY, without).networks["app"], plain)


def test_a_prompt_that_only_prompts_depend_on_is_left_out() -> None:
    """a -> prompt -> prompt: no demand is below the second prompt, nor below the third."""
    data = structure.PastStates(
        demand=np.array([0, 2, 4]),
        fanout=np.full(3, -1),
        prompt=np.array([-1, 1, 3]),
        demand_bins=(),
        fanout_bins=(),
        prompt_bins=(structure.NO_PROMPT,) * 3,
        states=np.arange(2, 7),
        codes=np.zeros((4, 5), np.int64),
        own_fanout=np.full(5, -1),
        linked=np.arange(5),
    )
    left, parents = structure._pruned(data, [(), (0,), (0,), (0, 1), ()])
    assert (left.demand.tolist(), left.prompt.tolist()) == ([0, 1, 2], [-1, -1, -1])
    assert parents == [(), (0,), ()]
    assert (left.states.tolist(), left.linked.tolist()) == ([2, 4, 6], [0, 1, 2])
    left, parents = structure._pruned(data, [(), (0,), (), (0, 1), (3,)])
    assert left.prompt.tolist() == [-1, 1, 3]
    assert parents == [(), (0,), (), (0, 1), (3,)]


@pytest.mark.slow
def test_prompts_join_so_many_states_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room for all edges of prompts, there are as many as join twice the states."""
    past = make_workload("chain_like", jobs_per_application=200).past

    def fit(prompts: bool, room: int) -> tuple[int, int]:
        monkeypatch.setattr(structure, "PROMPT_ROWS", room)
        profile = fit_profile(past, LATENCY, BeliefSettings(prompts=prompts))
        network = profile.networks["web_search"]
        states, separators = network.states, separators_of(network.parents)
        rows = sum(math.prod(states[v] for v in row) for row in separators)
        told = {*network.prompt.tolist()} - {-1}
        return rows, sum(parent in told for parent, _ in network.edges)

    plain, little, much = fit(False, 0), fit(True, 0), fit(True, 10**6)
    assert 0 == plain[1] < little[1] < much[1]
    assert plain[0] < little[0] <= 2 * plain[0] < much[0]


def test_of_many_prompts_some_fit_by_chance() -> None:
    """Thirty calls whose prompts and outputs have nothing to do with each other."""
    rng = np.random.default_rng(0)
    jobs = []
    for number in range(40):
        stages = [
            Stage(
                f"s{k:02}",
                Kind.LLM,
                (k - 1,) if k else (),
                (LLMTask(*rng.integers(1, 99, 2).tolist()),),
            )
            for k in range(30)
        ]
        jobs.append(Job("app", f"job-{number}", tuple(stages)))
    network = fit_profile(JobBank.from_jobs(jobs), LATENCY).networks["app"]
    assert (network.prompt == -1).all()


def test_few_past_jobs() -> None:
    past = JobBank.from_jobs(fan_out(number) for number in range(19))
    profile = fit_profile(past, LATENCY)
    check_networks(profile)
    network = profile.networks["app"]
    assert not network.edges
    assert (network.fanout == -1).all()
    assert profile.notes == ("app: 19 past jobs, below min_jobs=20: a plain prior without edges",)
    tools = profile.templates["app"].stages.index("tools#1")
    believed = believe(profile, moment(*fan_out(2).stages)).stages[0]
    assert believed["presence"][tools] == pytest.approx(14 / 19, abs=0.01)


def test_one_past_job() -> None:
    profile = fit_profile(JobBank.from_jobs([fan_out(3)]), LATENCY)
    check_networks(profile)
    beliefs = believe(profile, moment(*fan_out(3).stages))
    assert beliefs.stages["demand_s"][0] == pytest.approx([7.0, 21.0], rel=0.02)


def test_more_fan_outs_than_demands_in_few_past_jobs() -> None:
    """The number of tasks takes more values than any variable of a plain prior has states."""
    jobs = [Job("app", f"job-{n}", (stage("tools", seconds=[12.0 / n] * n),)) for n in range(1, 13)]
    profile = fit_profile(JobBank.from_jobs(jobs), LATENCY)
    beliefs = believe(profile, moment(*jobs[5].stages, completed=[3]))
    assert beliefs.jobs["regular_s"][0] == pytest.approx(6.0)


def test_an_application_without_past_jobs(fitted: BeliefProfile) -> None:
    assert len(fitted.missing(["app", "new", "other"])) == 2
    job = fan_out(2, "new")
    row = believe(fitted, moment(*job.stages, application="new")).jobs[0]
    tasks = fitted.tasks[""]
    assert row["llm_s"] == pytest.approx(tasks.mean[0])  # the plan: the tools are hidden
    assert (row["skipped"], row["regular_s"]) == (1, 0.0)
    assert row["prior_regular_s"] == pytest.approx(tasks.per_job[1])


def test_what_was_never_seen_is_counted(fitted: BeliefProfile) -> None:
    plan = stage("plan", seconds=[1000.0], kind=Kind.LLM)
    tools = stage("tools", 0, seconds=[1.0] * 9, by=0)
    new = stage("new", 0, by=0)
    row = believe(fitted, moment(plan, tools, new, completed=[1, 2])).jobs[0]
    assert row["skipped"] == 1
    assert row["clamped"] == 2  # the plan's demand and the number of tools
    assert np.isfinite([row[field] for field in row.dtype.names]).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("bins", 0), ("fanouts", 0), ("max_parents", 0), ("min_jobs", 1), ("prior_jobs", 0.0)],
        *[("reachable", -1), ("reachable", 5), ("low", -0.1), ("high", 1.1), ("low", 0.99)],
        *[("bins", 10**9), ("fanouts", 10**9), ("max_parents", 5), ("min_jobs", 10**30)],
        *[("bins", 6.0), ("fanouts", True), ("min_jobs", "20"), ("reachable", None)],
        *[("prior_jobs", np.inf), ("prior_jobs", np.nan), ("prior_jobs", 1e300)],
        *[("prior_jobs", "1"), ("prior_jobs", True), ("low", np.nan), ("high", np.inf)],
        *[("high", True), ("low", None), ("structural", 1), ("structural", "yes")],
    ],
)
def test_settings_out_of_range(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^(low, )?{name}[,:].* n(ot|either) ") as caught:
        BeliefSettings(**{name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "chosen",
    [
        BeliefSettings(bins=1, fanouts=1, max_parents=1, min_jobs=2, reachable=0, low=0, high=1),
        BeliefSettings(bins=100, fanouts=100, max_parents=4, prior_jobs=1e6, low=1.0, high=1),
        BeliefSettings(prior_jobs=1e-300, low=0.5, high=0.5),
    ],
)
def test_settings_at_their_limits(past: JobBank, chosen: BeliefSettings) -> None:
    profile = fit_profile(past, LATENCY, chosen)
    check_networks(profile)
    beliefs = believe(profile, moment(*fan_out(3).stages))
    for table in (beliefs.stages, beliefs.jobs):
        assert all(np.isfinite(table[field]).all() for field in table.dtype.names or ())


# --- Many stage names -------------------------------------------------------------------------


ELDERS = np.random.default_rng(0).integers(0, 2**31, (5000, 2))


def wide(number: int, names: int, tools: int, rng: np.random.Generator) -> Job:
    """A plan that reveals some of so many tools, each as long as one of two others."""
    seconds = rng.integers(1, 9, names).astype(float)
    for k in range(4, names):
        if rng.random() > 0.05:
            seconds[k] = seconds[ELDERS[k, rng.integers(2)] % k]
    chosen = np.sort(rng.choice(names, tools, replace=False))
    rows = (stage(f"t{k}", 0, seconds=[seconds[k]], by=0) for k in chosen)
    return Job("app", f"job-{number}", (stage("plan", kind=Kind.LLM), *rows))


@pytest.mark.slow
def test_thousands_of_rare_names_have_plain_priors() -> None:
    rng = np.random.default_rng(0)
    past = JobBank.from_jobs(wide(number, 5000, 8, rng) for number in range(300))
    begin = time.perf_counter()
    profile = fit_profile(past, LATENCY)
    network = profile.networks["app"]
    assert time.perf_counter() - begin < 20
    assert len(network.demand) > 1500
    assert len(network.edges) < 10
    check_networks(profile)
    (note,) = profile.notes
    assert note.startswith(f"app: {len(network.demand)} stage names: the 1")
    assert note.endswith(" rarest have plain priors without edges")
    job = past.job(0)
    beliefs = believe(profile, moment(*job.stages, completed=[1]))
    assert np.isfinite(beliefs.jobs["regular_s"]).all()
    assert beliefs.jobs["skipped"][0] == 0


@pytest.mark.slow
def test_of_many_frequent_names_the_most_frequent_are_linked() -> None:
    rng = np.random.default_rng(0)
    few = [wide(number, 30, 30, rng) for number in range(60)]
    many = [wide(number, 700, 500, rng) for number in range(60)]
    profile = fit_profile(JobBank.from_jobs([*few, *many]), LATENCY)
    check_networks(profile)
    network, template = profile.networks["app"], profile.templates["app"]
    linked = {v for edge in network.edges for v in edge}
    names = {template.stages[c] for c, v in enumerate(network.demand) if v in linked}
    assert {f"t{k}#1" for k in range(4, 30)} <= names
    assert profile.notes[0].startswith("app: 701 stage names: the 573 rarest have plain priors")


@pytest.mark.slow
def test_edges_that_would_join_too_many_states_are_left_out() -> None:
    rng = np.random.default_rng(0)
    profile = fit_profile(
        JobBank.from_jobs(wide(number, 40, 40, rng) for number in range(1500)), LATENCY
    )
    check_networks(profile)
    rows = compile_profile(profile, ["app"]).applications["rows"][-1]
    assert 1000 < rows <= fitting.MAX_ROWS
    (note,) = profile.notes
    assert note.startswith("app: ")
    assert note.endswith(" edges are left out: they would join too many states")


def test_what_does_not_fit_in_memory_is_refused(
    fitted: BeliefProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "MOST_ROWS", 5)
    with pytest.raises(ValueError, match="^belief: past jobs have 3 stage names, .* more than 5; "):
        compile_profile(fitted, ["app"])


def test_each_application_is_told(past: JobBank, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", fitting.__name__)
    fit_profile(past, LATENCY)
    assert caplog.messages == ["application 1 of 1: app"]


def test_max_parents(past: JobBank) -> None:
    check_networks(fit_profile(past, LATENCY, BeliefSettings(max_parents=1)))


# --- On disk ----------------------------------------------------------------------------------


@pytest.mark.parametrize("chosen", [BeliefSettings(), PLAIN])
def test_round_trip(past: JobBank, chosen: BeliefSettings, tmp_path: Path) -> None:
    more = (replace(summary(n, told(n)), application="other") for n in range(200))
    past = JobBank.from_jobs([*past.jobs(), *more])
    profile = fit_profile(past, LATENCY, chosen)
    profile.save(tmp_path / "profile.npz")
    assert same(BeliefProfile.load(tmp_path / "profile.npz"), profile)
    assert [path.name for path in tmp_path.iterdir()] == ["profile.npz"]


def test_damaged_file(fitted: BeliefProfile, tmp_path: Path) -> None:
    path = tmp_path / "profile.npz"
    fitted.save(path)
    whole = path.read_bytes()
    damaged = [b"", b"not an archive", whole[: len(whole) // 2], whole[:-1]]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(ValueError, match="profile.npz: not a belief profile"):
            BeliefProfile.load(path)
    for at in np.random.default_rng(0).integers(0, len(whole), 200):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
        with suppress(ValueError):  # or else it was a date in the archive, say
            assert same(BeliefProfile.load(path), fitted)
    np.savez(path, header=np.frombuffer(b"{}", np.uint8))
    with pytest.raises(ValueError, match="not a belief profile"):
        BeliefProfile.load(path)
    with pytest.raises(FileNotFoundError):
        BeliefProfile.load(tmp_path / "missing.npz")


@pytest.mark.parametrize("name", ["a/b", "..", "/", "$x_{1}$", "header", "ü"])
def test_names_may_be_anything(name: str, tmp_path: Path) -> None:
    jobs = [fan_out(number, application) for application in (name, "b") for number in range(3)]
    past = JobBank.from_jobs(replace(job, job_id=f"{job.job_id}-{k}") for k, job in enumerate(jobs))
    profile = load_or_fit(past, LATENCY, PLAIN, tmp_path)
    (path,) = tmp_path.iterdir()
    assert same(BeliefProfile.load(path), profile)


def edited(path: Path, change: Callable[[dict[str, Any]], None], true: bool) -> None:
    """Change arrays of a profile's file, and its checksum too if that is to be true."""
    with np.load(path) as file:
        arrays = {key: np.array(array) for key, array in dict(file).items()}
    arrays.pop("checksum")
    before = profile_module._checksum(arrays)
    change(arrays)
    checksum = profile_module._checksum(arrays) if true else before
    np.savez(path, **arrays, checksum=checksum)  # type: ignore[arg-type]


CHANGES: dict[str, Callable[[dict[str, Any]], None]] = {
    "other probabilities": lambda a: a["network0/tables"].__imul__(0.5),
    "no numbers": lambda a: a["network0/tables"].__setitem__(0, np.nan),
    "infinite": lambda a: a["network0/demand_bins/mean"].__setitem__(0, np.inf),
    "negative": lambda a: a["tasks0/mean"].__imul__(-1),
    "other variables": lambda a: a["network0/demand"].__iadd__(100),
    "prompts of others": lambda a: a["network0/prompt"].__setitem__(0, a["network0/demand"][0]),
    "prompts of none": lambda a: a["network0/prompt"].__iadd__(7),
    "twice": lambda a: a["network0/demand"].__setitem__(0, a["network0/demand"][1]),
    "other shapes": lambda a: a["network0/shapes"].__iadd__(1),
    "integers": lambda a: a.update({"tasks0/mean": np.zeros(2, np.int64)}),
    "too few": lambda a: a.update({"tasks0/mean": np.zeros(1)}),
    "none": lambda a: a.pop("network0/tables"),
    "no JSON": lambda a: a.update(header=np.zeros(3, np.uint8)),
}


@pytest.mark.parametrize("true", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_wrong_numbers_are_not_believed(
    past: JobBank,
    fits: list[Any],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    change: str,
    true: bool,
) -> None:
    monkeypatch.setattr(notes, "_told", set())
    first = load_or_fit(past, LATENCY, PLAIN, tmp_path)
    (path,) = tmp_path.iterdir()
    edited(path, CHANGES[change], true)
    with pytest.raises(ValueError, match="not a belief profile"):
        BeliefProfile.load(path)
    for _ in range(2):
        assert same(load_or_fit(past, LATENCY, PLAIN, tmp_path), first)
    assert len(fits) == 2
    err = capfd.readouterr().err
    assert err.startswith(f"llmsched_gym: {path}: not a belief profile (")
    assert err.count("\n") == 1
    assert err.endswith("; the belief is fitted anew\n")


def test_a_failed_save_leaves_the_old_file(
    fitted: BeliefProfile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "profile.npz"
    fitted.save(path)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no space")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OSError, match="no space"):
        fitted.save(path)
    monkeypatch.undo()
    assert same(BeliefProfile.load(path), fitted)
    assert [path.name for path in tmp_path.iterdir()] == ["profile.npz"]


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[BeliefSettings]:
    """The settings of every fit since the test began."""
    calls: list[BeliefSettings] = []
    fit: Callable[..., BeliefProfile] = fitting.fit_profile

    def counted(past: JobBank, latency: Any, settings: BeliefSettings) -> BeliefProfile:
        calls.append(settings)
        return fit(past, latency, settings)

    monkeypatch.setattr(fitting, "fit_profile", counted)
    return calls


def test_the_second_time_is_read(past: JobBank, tmp_path: Path, fits: list[BeliefSettings]) -> None:
    first = load_or_fit(past, LATENCY, PLAIN, tmp_path / "new" / "folder")
    assert same(load_or_fit(past, LATENCY, PLAIN, tmp_path / "new" / "folder"), first)
    assert fits == [PLAIN]


def test_the_key_holds_everything(past: JobBank, tmp_path: Path, fits: list[Any]) -> None:
    jobs = past.jobs()
    longer = [*jobs[:-1], replace(jobs[-1], stages=fan_out(2).stages)]
    shown = replace(jobs[1].stages[1], revealed_by=None)
    known_at_arrival = [jobs[0], replace(jobs[1], stages=(jobs[1].stages[0], shown)), *jobs[2:]]
    renamed = [replace(job, application="other") for job in jobs]
    banks = [JobBank.from_jobs(some) for some in (jobs[1:], longer, known_at_arrival, renamed)]
    other: dict[str, Any] = {
        **{"bins": 5, "fanouts": 4, "max_parents": 1, "min_jobs": 999, "prior_jobs": 2.0},
        **{"low": 0.1, "high": 0.9, "reachable": 3, "structural": False, "prompts": False},
    }
    assert set(other) == {field.name for field in fields(BeliefSettings)}
    slower = replace(LATENCY, a=LATENCY.a * 1.001)
    cases = [(past, LATENCY, PLAIN), (past, slower, PLAIN)]
    cases += [(past, LATENCY, replace(PLAIN, **{name: other[name]})) for name in other]
    cases += [(bank, LATENCY, PLAIN) for bank in banks]
    for _ in range(2):
        for bank, latency, chosen in cases:
            load_or_fit(bank, latency, chosen, tmp_path)
    assert len(fits) == len(cases)
    same_jobs = JobBank.from_jobs(replace(job, job_id=f"x{job.job_id}") for job in jobs)
    load_or_fit(same_jobs, replace(LATENCY, name="same"), PLAIN, tmp_path)
    assert len(fits) == len(cases)  # names of jobs and presets change nothing


def test_a_damaged_cache_is_refitted(past: JobBank, tmp_path: Path, fits: list[Any]) -> None:
    first = load_or_fit(past, LATENCY, PLAIN, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    for _ in range(2):
        assert same(load_or_fit(past, LATENCY, PLAIN, tmp_path), first)
    assert len(fits) == 2
    assert list(tmp_path.iterdir()) == [path]


def test_a_cache_that_cannot_be_written(past: JobBank, tmp_path: Path, fits: list[Any]) -> None:
    (tmp_path / "file").write_text("not a folder")
    for where in (tmp_path / "file", tmp_path / "file" / "below"):
        assert load_or_fit(past, LATENCY, PLAIN, where).networks
    (tmp_path / "real").mkdir()
    load_or_fit(past, LATENCY, PLAIN, tmp_path / "real")
    (path,) = (tmp_path / "real").iterdir()
    path.unlink()
    path.mkdir()  # a folder where the file should be
    (path / "full").touch()
    assert load_or_fit(past, LATENCY, PLAIN, tmp_path / "real").networks
    assert len(fits) == 4
    assert [item.name for item in (tmp_path / "real").iterdir()] == [path.name]
