from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from llmsched_gym.cluster.latency import ClusterError, LatencyProfile
from llmsched_gym.cluster.preset import CLUSTERS, PRESETS, Cluster, load_cluster
from llmsched_gym.cluster.ticks import TICKS_PER_SECOND

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


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "4"])
def test_impossible_sizes_are_refused(size: Any) -> None:
    for name in ("engines", "max_batch", "regular_executors"):
        with pytest.raises(ClusterError, match=f"^{name}: "):
            load_cluster("constant", **{name: size})


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
    [("name: [", "line 1: "), ("", "file: not a mapping"), ("- 1", "file: not a mapping")],
)
def test_files_that_are_no_cluster(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ClusterError) as error:
        load_cluster(file)
    assert str(error.value).startswith(f"{file}: {message}")
    assert "\n" not in str(error.value)


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
