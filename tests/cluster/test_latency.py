from __future__ import annotations

import csv
import json
import math
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmsched_gym.cluster.alone import EmptyCluster
from llmsched_gym.cluster.latency import LARGEST_MS, ClusterError, LatencyProfile
from llmsched_gym.cluster.limits import TaskTooLarge, check_fits
from llmsched_gym.cluster.preset import CLUSTERS, PRESETS, Cluster, load_cluster
from llmsched_gym.cluster.ticks import LONGEST_JOB_S, TICKS_PER_SECOND
from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.job import MAX_TOKENS, Job, Kind, LLMTask, Stage

same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
FITTED = [name for name in CLUSTERS if name != "constant"]
SIMPLE = LatencyProfile("simple", 10.0, 2.0, 0.01, 30.0, 20.0, 0.1, 1e-4, 5000)


def test_times_of_a_profile() -> None:
    ms = TICKS_PER_SECOND // 1000
    assert SIMPLE.decode_ticks(3, 200) == 18 * ms  # 10 + 3 * 2 + 200 * 0.01
    assert SIMPLE.prefill_ticks([10, 100]).tolist() == [30 * ms, 31 * ms]  # 21.01 is below p0
    assert SIMPLE.demand_ticks(100, 1) == 31 * ms
    # two iterations more, with 101 and 102 tokens
    assert SIMPLE.demand_ticks(100, 3) == 31 * ms + (12 * 100 + 101 + 12 * 100 + 102) * ms // 100
    # 2 iterations of 10 + 8 * 2 + 0.01 * 8 * 101.5, and 31 ms of 8 slots
    assert SIMPLE.slot_seconds(100, 3, 8) == pytest.approx((2 * 34.12 + 8 * 31) / 1000)


@given(
    st.sampled_from(CLUSTERS),
    st.lists(st.tuples(st.integers(1, 4000), st.integers(1, 300)), min_size=1, max_size=5),
)
def test_demand_is_the_sum_over_tokens(name: str, tokens: list[tuple[int, int]]) -> None:
    latency = load_cluster(name).latency
    prompts, outputs = np.array(tokens).T
    for found, p, o in zip(latency.demand_ticks(prompts, outputs), prompts, outputs, strict=True):
        iterations = latency.decode_ticks(1, p + np.arange(1, o))
        assert found == latency.prefill_ticks(p) + iterations.sum()


@pytest.mark.parametrize("name", CLUSTERS)
def test_presets_load_with_the_default_sizes(name: str) -> None:
    cluster = load_cluster(name)
    assert cluster.name == cluster.latency.name == name
    assert (cluster.engines, cluster.max_batch, cluster.regular_executors) == (4, 8, 16)
    assert cluster.llm_slots == 32
    assert cluster.latency.source["licence"]


def test_sizes_can_be_replaced() -> None:
    cluster = load_cluster("a100_llama2_7b", engines=2, regular_executors=3)
    assert (cluster.engines, cluster.max_batch, cluster.regular_executors) == (2, 8, 3)
    assert load_cluster(cluster, max_batch=1).llm_slots == 2
    assert load_cluster(cluster) == cluster


def test_unknown_names_are_told_the_valid_ones() -> None:
    with pytest.raises(ClusterError, match="'a100'; valid: .*a100_llama2_7b, .*constant"):
        load_cluster("a100")
    with pytest.raises(ClusterError, match="'gpus'; valid: engines, max_batch, regular_exec"):
        load_cluster("constant", gpus=3)
    with pytest.raises(FileNotFoundError, match=r"no such file: nowhere\.yaml"):
        load_cluster("nowhere.yaml")


@pytest.mark.parametrize(
    "size", [0, -1, 1.5, True, "4", None, 10**12, pytest.param(10**5000, id="huge"), float("nan")]
)
def test_impossible_sizes_are_refused(size: Any) -> None:
    for name in ("engines", "max_batch", "regular_executors"):
        with pytest.raises(ClusterError, match=f"^{name}: "):
            load_cluster("constant", **{name: size})


def test_sizes_have_a_range() -> None:
    largest = load_cluster("constant", engines=100, max_batch=10_000, regular_executors=1_000_000)
    assert largest.llm_slots == 1_000_000
    with pytest.raises(
        ClusterError, match="engines, max_batch: 1010000 slots are more than 1000000"
    ):
        load_cluster(largest, engines=101)
    assert load_cluster("constant", engines=np.int64(3)).engines == 3  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [1e300, 10**400, 1.1e6, -1e-9, float("inf"), "1", None, True, 1j])
def test_coefficients_have_a_range(value: Any) -> None:
    for name in ("a", "c", "d", "p0", "e", "f", "g"):
        with pytest.raises(ClusterError, match=f"^{name}: .* is not a time in ms, 0 to 1e\\+06$"):
            replace(SIMPLE, **{name: value})
    capacity: Any
    for capacity in (value, 10**25, 1, 1.5):
        with pytest.raises(ClusterError, match=r"^kv_capacity_tokens: .* is not a whole number of"):
            replace(SIMPLE, kv_capacity_tokens=capacity)


@given(
    st.lists(st.floats(0, LARGEST_MS), min_size=7, max_size=7),
    st.integers(1, MAX_TOKENS),
    st.integers(1, MAX_TOKENS),
)
def test_a_demand_is_exact_or_refused(coefficients: list[float], prompt: int, output: int) -> None:
    """Never an integer that overflowed: Python's own do not."""
    latency = LatencyProfile("any", *[max(x, 1e-9) for x in coefficients], 10**12)  # type: ignore[arg-type, call-arg]
    a, c, d = latency.decode_coefficients
    p0, e, f, g = latency.prefill_coefficients
    steps = output - 1
    prefill = math.floor(max(p0, e + f * float(prompt) + g * float(prompt) * float(prompt)) + 0.5)
    ticks = prefill + steps * (a + c) + d * (steps * prompt + steps * (steps + 1) // 2)
    most = LONGEST_JOB_S * TICKS_PER_SECOND
    if ticks < 0.999_999 * most:
        assert latency.demand_ticks(prompt, output) == ticks
    elif ticks > 1.000_001 * most:
        with pytest.raises(ValueError, match="^tokens: a task takes .* s alone, the clock of the"):
            latency.demand_ticks(prompt, output)
    assert latency.demand_s(prompt, output) == pytest.approx(ticks / TICKS_PER_SECOND)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text((PRESETS / "h100_llama31_8b.yaml").read_text())
    assert load_cluster(path) == load_cluster(str(path)) == load_cluster("h100_llama31_8b")
    minimal = _constant()
    del minimal["engines"], minimal["latency"]["source"]
    path.write_text(yaml.safe_dump(minimal))
    assert load_cluster(path).engines == Cluster.engines


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("engines", 0, "engines: 0 is not a whole number of at least 1"),
        ("gpus", 4, "gpus: unknown field; valid: name, latency, engines, max_batch, regular_exec"),
        ("name", None, "name: None is not a name"),
        ("latency", [1], "latency: not a mapping"),
        ("latency.decode_ms.a", 0, "a: 0 ms is below 1e-9 ms"),
        ("latency.decode_ms.c", -1.0, "c: -1.0 is not a time in ms"),
        ("latency.decode_ms.d", float("nan"), "d: nan is not a time in ms"),
        ("latency.decode_ms.d", "1e-3", "d: '1e-3' is not a number (YAML: 1.0e-3, not 1e-3)"),
        ("latency.decode_ms.e", 1.0, "latency.decode_ms.e: unknown field; valid: a, c, d"),
        ("latency.prefill_ms.p0", True, "p0: True is not a number"),
        ("latency.prefill_ms.g", "missing", "latency.prefill_ms.g: missing"),
        ("latency.kv_capacity_tokens", 1e5, "kv_capacity_tokens: 100000.0 is not a whole number"),
        ("latency.error", 3, "latency.error: not a mapping"),
        ("latency.decode_ms.a", 1e300, "a: 1e+300 is not a time in ms, 0 to 1e+06"),
        ("latency.kv_capacity_tokens", 10**25, "kv_capacity_tokens: 10000000000000000000000000 is"),
        ("engines", 10**12, "engines: 1000000000000 is not a whole number of at least 1, 10000 at"),
        ("name", "a\x1b[2J", "name: 'a\\x1b[2J' is not a name"),
        ("a\x1b[2J", 1, "'a\\x1b[2J': unknown field"),
    ],
)
def test_malformed_files(tmp_path: Path, where: str, value: Any, message: str) -> None:
    content = _constant()
    *path, name = where.split(".")
    section = content
    for step in path:
        section = section[step]
    section[name] = value
    if value == "missing":
        del section[name]
    file = tmp_path / "bad.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ClusterError) as error:
        load_cluster(file)
    assert str(error.value).startswith(f"{file}: {message}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "line 1: "),
        ("", "file: not a mapping"),
        ("- 1", "file: not a mapping"),
        ("[" * 5000, "YAML: "),
        ("name: 2023-13-45", "YAML: "),
        ("name: !!timestamp x", "YAML: "),
        ('name: !!int ""', "YAML: "),
        ("name: " + "9" * 5000, "YAML: "),
        ("name: !!python/object:os.system {}", "line 1: "),
        ("? [1, 2]\n: 3", "line 1: found unhashable key"),
        ("1: 2", "1: unknown field"),
        ("\0", "YAML: "),
        (b"\xff\xfe\xfa", "YAML: "),
    ],
)
def test_files_that_are_no_cluster(tmp_path: Path, text: str | bytes, message: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ClusterError) as error:
        load_cluster(file)
    assert str(error.value).startswith(f"{file}: {message}")
    assert "\n" not in str(error.value)


def test_a_number_that_a_file_multiplies_without_end_is_not_shown_whole(tmp_path: Path) -> None:
    """Each line holds the one before nine times: 9**20 numbers."""
    bomb = "\n".join(f"  b{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 9)}]" for n in range(1, 21))
    content = (PRESETS / "constant.yaml").read_text()
    content += f"  error:\n    b0: &b0 [1]\n{bomb.replace('  b', '    b')}\n"
    file = tmp_path / "bomb.yaml"
    file.write_text(content)
    assert load_cluster(file) == load_cluster("constant")
    file.write_text(content + "engines: *b20\n")
    with pytest.raises(ClusterError, match=r"engines: .* is not a whole number") as error:
        load_cluster(file)
    assert len(str(error.value)) < 300


def test_what_is_no_file_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(ClusterError, match=r"pipe\.yaml: a pipe, not a file"):
        load_cluster(tmp_path / "pipe.yaml")
    with pytest.raises(ClusterError, match=r"folder\.yaml: a folder, not a file"):
        load_cluster(tmp_path / "folder.yaml")
    for nonsense in (5, None, b"constant", {"engines": 2}):
        with pytest.raises(ValueError, match="cluster: .* is "):
            load_cluster(nonsense)  # type: ignore[arg-type]
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.YAML").write_text((PRESETS / "constant.yaml").read_text())
    assert load_cluster("~/mine.YAML") == load_cluster("constant")


scalars = st.sampled_from([0, 1, -1, 10**25, 10**12, 1e300, 1e-300, True, None, "x", "1e-3"])
values = st.recursive(
    scalars | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(scalars, inner, max_size=3),
    max_leaves=4,
)
places = st.sampled_from(
    [
        *(("latency", "decode_ms", name) for name in "acd"),
        *(("latency", "prefill_ms", name) for name in ("p0", "e", "f", "g")),
        *(("latency", name) for name in ("kv_capacity_tokens", "source", "error", "decode_ms")),
        *(
            (name,)
            for name in ("name", "latency", "engines", "max_batch", "regular_executors", "y")
        ),
    ]
)


def check_that_a_cluster_is_refused_or_plays(folder: Path, content: bytes) -> None:
    file = folder / "any.yaml"
    file.write_bytes(content)
    try:
        cluster = load_cluster(file)
    except ClusterError as error:
        said = str(error)
        assert said.startswith(f"{file}: ")
        assert said.isprintable()
        return
    jobs = [Job("a", str(n), (Stage("s", Kind.LLM, (), (LLMTask(50, 9),) * 3),)) for n in range(3)]
    bank = JobBank.from_jobs(jobs)
    try:
        check_fits(bank, cluster)
    except TaskTooLarge:
        return
    if cluster.llm_slots + cluster.regular_executors > 10_000:
        return  # it would play, but slowly
    assert np.isfinite(EmptyCluster(bank, cluster).alone_s([0, 1, 2])).all()


def any_cluster(data: st.DataObject) -> bytes:
    if data.draw(st.booleans()):
        return data.draw(st.binary(max_size=80))
    content = _constant()
    for *path, name in data.draw(st.lists(places, max_size=3)):
        section: Any = content
        for step in path:
            section = section.get(step) if isinstance(section, dict) else None
        if isinstance(section, dict):
            section[name] = data.draw(values)
    return yaml.safe_dump(content).encode("utf-8", "surrogatepass")


@same_folder
@given(st.data())
def test_any_cluster_is_refused_or_plays(tmp_path: Path, data: st.DataObject) -> None:
    check_that_a_cluster_is_refused_or_plays(tmp_path, any_cluster(data))


@pytest.mark.slow
@settings(same_folder, max_examples=2500)
@given(st.data())
def test_any_cluster_is_refused_or_plays_often(tmp_path: Path, data: st.DataObject) -> None:
    check_that_a_cluster_is_refused_or_plays(tmp_path, any_cluster(data))


def _constant() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((PRESETS / "constant.yaml").read_text())
    return content


# --- Against the data the presets were fitted to ---


@pytest.mark.parametrize("name", FITTED)
def test_coefficients_and_errors_are_those_of_the_fit(name: str, shared: Path) -> None:
    latency = load_cluster(name).latency
    fits = json.loads((shared / "latency" / "fits.json").read_text())
    fit = fits[latency.source["fit"]]
    decode, prefill = fit["decode"], fit["prefill"]
    assert (latency.a, latency.c, latency.d) == (decode["a"], decode["c"], decode["d"])
    assert [latency.p0, latency.e, latency.f, latency.g] == [
        prefill[x] for x in ("p0", "e", "f", "g")
    ]
    assert latency.error["decode_mape_pct"] == decode["mape_pct"]
    assert latency.error["decode_max_pct"] == decode["max_rel_err_pct"]
    assert latency.error["decode_batch"] == decode["batch_range"]
    assert latency.error["decode_context_tokens"] == decode["ctx_range"]
    assert latency.error["prefill_mape_pct"] == prefill["mape_pct"]
    assert latency.error["prefill_max_pct"] == prefill["max_rel_err_pct"]
    assert latency.error["prefill_tokens"] == prefill["n_range"]
    if "kv_capacity_tokens" in fit:
        assert latency.kv_capacity_tokens == fit["kv_capacity_tokens"]


@pytest.mark.parametrize("name", [name for name in FITTED if not name.endswith("_measured")])
def test_profiles_reproduce_the_composed_times(name: str, shared: Path) -> None:
    latency = load_cluster(name).latency
    decode = np.array(
        [
            (int(row["batch"]), int(row["kv_tokens"]), float(row["iter_ms"]))
            for row in _rows(shared / "latency" / "decode_composed.csv")
            if row["config"] == latency.source["fit"]
            and int(row["kv_tokens"]) <= latency.kv_capacity_tokens  # the others cannot occur
        ]
    )
    found = latency.decode_ticks(decode[:, 0], decode[:, 1]) * 1e-9
    _check_error(found, decode[:, 2], latency, "decode")
    prefill = np.array(
        [
            (int(row["prompt_tokens"]), float(row["iter_ms"]))
            for row in _rows(shared / "latency" / "prefill_composed.csv")
            if row["config"] == latency.source["fit"]
        ]
    )
    _check_error(latency.prefill_ticks(prefill[:, 0]) * 1e-9, prefill[:, 1], latency, "prefill")


@pytest.mark.parametrize("name", [name for name in FITTED if name.endswith("_measured")])
def test_profiles_reproduce_the_measured_times(name: str, shared: Path) -> None:
    latency = load_cluster(name).latency
    gpu = "a100-80gb" if name.startswith("a100") else "h100-80gb"
    prompts: dict[int, list[float]] = defaultdict(list)
    for row in _rows(shared / "latency" / "splitwise_measured.csv"):
        if (row["model"], row["hardware"], row["tensor_parallel"]) != ("llama2-70b", gpu, "4"):
            continue
        batch, prompt, output = (int(row[f"{x}_size"]) for x in ("batch", "prompt", "token"))
        iteration = latency.decode_ticks(batch, batch * (prompt + output // 2)) * 1e-9
        error_pct = 100 * abs(iteration / float(row["token_ms"]) - 1)
        assert error_pct <= 1.01 * latency.error["decode_max_pct"]
        if batch == 1:
            prompts[prompt].append(float(row["prompt_ms"]))
    sizes = sorted(size for size in prompts if 128 <= size <= 8192)
    measured = np.array([np.median(prompts[size]) for size in sizes])
    _check_error(latency.prefill_ticks(sizes) * 1e-9, measured, latency, "prefill")


def _check_error(
    found: np.ndarray[Any, Any], measured: np.ndarray[Any, Any], latency: LatencyProfile, what: str
) -> None:
    """The stated errors are those of the rows (which are printed with a few digits less)."""
    error_pct = 100 * np.abs(found / measured - 1)
    assert len(measured) == latency.error[f"{what}_points"]
    assert error_pct.mean() == pytest.approx(latency.error[f"{what}_mape_pct"], rel=0.02)
    assert error_pct.max() == pytest.approx(latency.error[f"{what}_max_pct"], rel=0.02)


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="") as file:
        yield from csv.DictReader(file)
