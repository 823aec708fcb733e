from __future__ import annotations

import csv
import statistics
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from llmsched_gym.cluster.calibration import (
    Measurements,
    fit_profile,
    main,
    prefill_ms,
    read_measurements,
    write_cluster,
)
from llmsched_gym.cluster.latency import ClusterError, LatencyProfile
from llmsched_gym.cluster.preset import CLUSTERS, Cluster, load_cluster

TRUE = LatencyProfile("true", 10.0, 0.5, 0.002, 15.0, 5.0, 0.1, 1e-5, 100_000)
FITTED = [name for name in CLUSTERS if name != "constant"]


def times_of(
    profile: LatencyProfile,
    batches: tuple[int, ...] = (1, 2, 4, 8),
    contexts: tuple[int, ...] = (64, 512, 2048),
    tokens: tuple[int, ...] = (16, 64, 128, 512, 1024, 4096),
) -> Measurements:
    """What an engine that is exactly like a profile takes."""
    batch, context = (one.ravel() for one in np.meshgrid(batches, contexts))
    kv = batch * context
    decode = profile.a + profile.c * batch + profile.d * kv
    return Measurements(batch, kv, decode, np.array(tokens), formula(profile, tokens))


def formula(profile: LatencyProfile, tokens: tuple[int, ...]) -> np.ndarray:
    return prefill_ms((profile.p0, profile.e, profile.f, profile.g), tokens)


def relative(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    return np.abs(found / expected - 1)


def decode_ms(profile: LatencyProfile, measured: Measurements) -> np.ndarray:
    return profile.a + profile.c * measured.batch + profile.d * measured.kv


# --- The fit --------------------------------------------------------------------------------------


@given(
    *(st.floats(least, most) for least, most in ((1, 50), (0.01, 5), (1e-5, 0.01))),
    *(st.floats(least, most) for least, most in ((1, 20), (0.01, 3), (1e-7, 1e-4))),
)
def test_what_follows_the_formula_is_found(
    a: float, c: float, d: float, e: float, f: float, g: float
) -> None:
    true = LatencyProfile("true", a, c, d, e + 50 * f, e, f, g, 100_000)
    profile = fit_profile(times_of(true), name="found")
    measured = times_of(true, (1, 3, 16), (10, 5000), (1, 50, 300, 3000))
    assert relative(decode_ms(profile, measured), measured.decode_ms).max() < 1e-3
    found = formula(profile, tuple(measured.tokens))
    assert relative(found, measured.prefill_ms).max() < 0.01
    assert profile.error["decode_held_out_mape_pct"] < 0.1


def test_noise_and_outliers_hardly_matter() -> None:
    rng = np.random.default_rng(1)
    exact = times_of(TRUE)
    rows = Measurements(*(np.tile(getattr(exact, name), 8) for name in exact.__annotations__))
    noisy = replace(
        rows,
        decode_ms=rows.decode_ms * rng.normal(1, 0.03, len(rows.batch)),
        prefill_ms=rows.prefill_ms * rng.normal(1, 0.03, len(rows.tokens)),
    )
    noisy.decode_ms[::10] *= 5
    noisy.prefill_ms[::10] *= 5
    noisy.decode_ms[5::20] = 1e-3
    noisy.prefill_ms[5::20] = 1e-3
    profile = fit_profile(noisy, name="found")
    assert relative(decode_ms(profile, exact), exact.decode_ms).max() < 0.03
    assert relative(formula(profile, tuple(exact.tokens)), exact.prefill_ms).max() < 0.05


def test_sums_agree_where_slow_rows_are_rarer_than_fast_ones() -> None:
    rng = np.random.default_rng(2)
    exact = times_of(TRUE)
    rows = Measurements(*(np.tile(getattr(exact, name), 20) for name in exact.__annotations__))
    slow = replace(rows, decode_ms=rows.decode_ms * (1 + rng.exponential(0.1, len(rows.batch))))
    profile = fit_profile(slow, name="found")
    assert decode_ms(profile, slow).sum() == pytest.approx(slow.decode_ms.sum(), rel=1e-4)


def test_coefficients_are_never_negative() -> None:
    falling = times_of(replace(TRUE, c=0.0, d=0.0, g=0.0))
    shrinking = replace(falling, decode_ms=falling.decode_ms - 0.1 * falling.batch)
    profile = fit_profile(shrinking, name="found")
    assert profile.c == 0
    assert min(profile.a, profile.d, profile.p0, profile.e, profile.f, profile.g) >= 0


def test_what_a_profile_says_of_itself() -> None:
    measured = times_of(TRUE)
    profile = fit_profile(
        measured, name="mine", prefill="mixed", token_budget=512, joins="late", source={"a": "b"}
    )
    assert (profile.mixed, profile.late, profile.token_budget) == (True, True, 512)
    assert profile.kv_capacity_tokens == 8 * 2048  # the most that was measured
    assert profile.source == {"a": "b"}
    assert profile.error["decode_points"] == 12
    assert profile.error["decode_batch"] == [1, 8]
    assert profile.error["decode_context_tokens"] == [64, 2048]
    assert profile.error["prefill_tokens"] == [16, 4096]
    measured.decode_ms[0] *= 1.1
    worse = fit_profile(measured, name="mine", kv_capacity_tokens=10**6)
    assert worse.kv_capacity_tokens == 10**6
    assert worse.error["decode_max_pct"] == pytest.approx(100 / 11, rel=0.1)
    assert 100 / 11 / 12 < worse.error["decode_mape_pct"] < 1.5  # a row, and the sum of all


@pytest.mark.parametrize(
    ("batches", "contexts", "tokens", "message"),
    [
        ((4,), (64, 512), (16, 64), "decode: all rows have batch 4, .*; measure 2 batches or more"),
        ((1, 4), (64,), (16, 64), "decode: all rows have about 64 tokens a sequence, .*contexts"),
        ((1, 4), (64, 512), (16,), "prefill: all rows have 16 tokens; measure 2 lengths or more"),
        ((), (), (16, 64), "decode: no row"),
        ((1, 4), (64, 512), (), "prefill: no row"),
    ],
)
def test_too_few_rows(
    batches: tuple[int, ...], contexts: tuple[int, ...], tokens: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ClusterError, match=f"^{message}"):
        fit_profile(times_of(TRUE, batches, contexts, tokens), name="mine")


def test_rows_that_do_not_tell_the_coefficients_apart() -> None:
    two = Measurements([1, 8], [64, 4096], [10, 20], [16, 64], [20, 30])  # type: ignore[arg-type]
    with pytest.raises(ClusterError, match="decode: 2 rows do not tell"):
        fit_profile(two, name="mine")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("batch", [0.0], "batch: a value is not a number of sequences, 1 to 1e"),
        ("kv", [np.nan], "kv: a value is not a number of tokens"),
        ("decode_ms", [np.inf], "decode_ms: a value is not a time in ms"),
        ("prefill_ms", [1.0, 2.0], "tokens, prefill_ms: not lists of one length"),
    ],
)
def test_measurements_check_themselves(name: str, value: list[float], message: str) -> None:
    ones = {name: np.ones(1) for name in Measurements.__annotations__}
    with pytest.raises(ClusterError, match=f"^{message}"):
        Measurements(**(ones | {name: np.array(value)}))


# --- Against the data the presets were fitted to ---


def measured_of(fit: str, kv_capacity_tokens: int, folder: Path) -> Measurements:
    """The rows that a preset was fitted to: as many tokens as it holds, a median for each point."""
    if fit.startswith("aic"):
        decode = rows_of(folder / "decode_composed.csv", fit, "batch", "kv_tokens", "iter_ms")
        prefill = rows_of(folder / "prefill_composed.csv", fit, "prompt_tokens", "iter_ms")
        decode = decode[decode[:, 1] <= kv_capacity_tokens]
        return Measurements(*decode.T, *prefill.T)
    _, gpu, model, tp = fit.split("_")
    tokens, decodes = defaultdict(list), defaultdict(list)
    with (folder / "splitwise_measured.csv").open() as file:
        for row in csv.DictReader(file):
            if (row["hardware"], row["model"], f"tp{row['tensor_parallel']}") == (
                gpu if "-" in gpu else f"{gpu}-80gb",
                model,
                tp,
            ):
                batch, prompt, output = (
                    int(row[name]) for name in ("batch_size", "prompt_size", "token_size")
                )
                decodes[batch, batch * (prompt + output // 2)].append(float(row["token_ms"]))
                if batch == 1:
                    tokens[prompt].append(float(row["prompt_ms"]))
    batch, kv = np.array(list(decodes)).T
    return Measurements(
        batch,
        kv,
        np.array([statistics.median(ms) for ms in decodes.values()]),
        np.array(list(tokens)),
        np.array([statistics.median(ms) for ms in tokens.values()]),
    )


def rows_of(path: Path, config: str, *columns: str) -> np.ndarray:
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row["config"] == config]
    return np.array([[float(row[name]) for name in columns] for row in rows])


@pytest.mark.parametrize("name", FITTED)
def test_presets_are_found_again(name: str, shared: Path) -> None:
    preset = load_cluster(name).latency
    measured = measured_of(preset.source["fit"], preset.kv_capacity_tokens, shared / "latency")
    profile = fit_profile(measured, name=name)
    stated = preset.error
    off = relative(decode_ms(profile, measured), decode_ms(preset, measured))
    assert 100 * off.mean() < stated["decode_mape_pct"]
    assert 100 * off.max() < stated["decode_max_pct"]
    tokens = tuple(measured.tokens)
    off = relative(formula(profile, tokens), formula(preset, tokens))
    assert 100 * off.mean() < stated["prefill_mape_pct"]
    assert 100 * off.max() < stated["prefill_max_pct"]
    for kind in ("decode", "prefill"):
        error = profile.error[f"{kind}_mape_pct"]
        assert error < 1.1 * stated[f"{kind}_mape_pct"]
        assert error <= profile.error[f"{kind}_held_out_mape_pct"] < 10


# --- Files ---

TABLE = """kind,gpu,batch,context,kv,tokens,ms
decode,x,1,100,,,12.2
decode,x,4,,400,,15
Decode, x, 1, 1000, , , 14
decode,x,4,1000,,,22.2

prefill,x,,,,64,30
prefill,x,,,,640,70.5
"""


def test_a_table_is_read(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("\ufeff" + TABLE, encoding="utf-8")
    measured = read_measurements(path)
    assert measured.batch.tolist() == [1, 4, 1, 4]
    assert measured.kv.tolist() == [100, 400, 1000, 4000]
    assert measured.decode_ms.tolist() == [12.2, 15, 14, 22.2]
    assert measured.tokens.tolist() == [64, 640]
    assert measured.prefill_ms.tolist() == [30, 70.5]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("15\n", "fast\n", ":3:ms: 'fast' is not a time in ms, 1e-06 to 1e+06"),
        ("15\n", "-1\n", ":3:ms: '-1' is not a time in ms"),
        ("15\n", "nan\n", ":3:ms: 'nan' is not a time in ms"),
        ("400,", ",", ":3:context: '' is not a number of tokens"),
        ("x,4,,", "x,0,,", ":3:batch: '0' is not a number of sequences, 1 to 1e+06"),
        ("640,", ",", ":8:tokens: '' is not a number of tokens"),
        ("Decode", "encode", ":4:kind: 'encode' is neither decode nor prefill"),
        ("kind,", "sort,", ":1:kind: no such column; valid: kind, batch, context or kv, tokens"),
        (",,64,30", ",64,30", ":7:7: 6 cells under 7 names"),
        ("decode,x", 'decode,"x', ":8: unexpected end of data"),
    ],
)
def test_bad_tables(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(TABLE.replace(old, new, 1))
    with pytest.raises(ClusterError) as error:
        read_measurements(path)
    assert str(error.value).startswith(f"{path}{message}")
    assert "\n" not in str(error.value)


@given(content=st.binary(max_size=60) | st.text(",\n decodprfil0123kvmst", max_size=60))
def test_any_table_is_read_or_refused(
    content: bytes | str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with suppress(ClusterError):
        read_measurements(path)


def test_no_table(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_measurements(tmp_path / "nothing.csv")
    with pytest.raises(ClusterError, match="a folder, not a CSV file"):
        read_measurements(tmp_path)


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_cluster_is_read_as_it_was_written(name: str, tmp_path: Path) -> None:
    cluster = load_cluster(name)
    write_cluster(cluster, tmp_path / "mine.yaml")
    found = load_cluster(tmp_path / "mine.yaml")
    assert found == cluster
    assert found.latency.source == cluster.latency.source
    assert found.latency.error == cluster.latency.error


def test_a_cluster_is_laid_out_like_the_presets(tmp_path: Path) -> None:
    tiny = replace(TRUE, d=1e-5, prefill="mixed", token_budget=2048, joins="late", source={"a": 1})
    write_cluster(Cluster("mine", tiny, max_batch=4), tmp_path / "mine.yaml")
    lines = (tmp_path / "mine.yaml").read_text().splitlines()
    assert lines[:6] == [
        "name: mine",
        "engines: 4",
        "max_batch: 4",
        "regular_executors: 16",
        "latency:",
        "  decode_ms: {a: 10.0, c: 0.5, d: 1.0e-05}",
    ]
    assert "  token_budget: 2048" in lines
    found = load_cluster(tmp_path / "mine.yaml").latency
    assert found == replace(tiny, name="mine")  # it has the name of its cluster


# --- The command ---


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[object, str, str]]:
    """Runs the command in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[object, str, str]:
        try:
            code: object = main(arguments)
        except SystemExit as error:
            code = error.code
        return code, *capsys.readouterr()

    return run


def test_the_command(run: Callable[..., tuple[object, str, str]], tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(TABLE)
    traits = ["--prefill", "mixed", "--token-budget", "256", "--joins", "late"]
    code, out, err = run(
        "table.csv", "-o", "mine.yaml", *traits, "--figure", "mine.png", "--name", "my engine"
    )
    assert (code, err) == (0, "")
    assert "my engine" in out
    assert "python evaluate.py cluster=mine.yaml" in out
    cluster = load_cluster(tmp_path / "mine.yaml")
    assert cluster.name == "my engine"
    assert (cluster.latency.prefill, cluster.latency.token_budget) == ("mixed", 256)
    assert cluster.latency.source["data"] == "measured by the user: table.csv"
    assert (tmp_path / "mine.png").read_bytes().startswith(b"\x89PNG")
    assert yaml.safe_load((tmp_path / "mine.yaml").read_text())["name"] == "my engine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table.csv"], "the following arguments are required: -o/--output"),
        (["nothing.csv", "-o", "a.yaml"], "nothing.csv: no such file"),
        (["table.csv", "-o", "a.txt"], "output: a.txt does not end with .yaml"),
        (["table.csv", "-o", "no/a.yaml"], "output: no such folder: "),
        (["table.csv", "-o", "a.yaml", "--name", ""], "name: empty name"),
        (["table.csv", "-o", "a.yaml", "--prefill", "mixed"], "token_budget: missing"),
        (["table.csv", "-o", "a.yaml", "--token-budget", "9"], "token_budget: only prefill=mixed"),
        (["table.csv", "-o", "a.yaml", "--figure", "no/a.png"], "no/"),
        (["short.csv", "-o", "a.yaml"], "prefill: no row; measure some"),
    ],
)
def test_bad_commands_write_nothing(
    run: Callable[..., tuple[object, str, str]], tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "table.csv").write_text(TABLE)
    (tmp_path / "short.csv").write_text(TABLE.partition("\n\n")[0])
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"calibration: {message}")
    assert err.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"table.csv", "short.csv"}
