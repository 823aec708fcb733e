"""Checkpoints come back as they were saved, or not at all."""

import json
import os
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

import llmsched_gym  # noqa: F401 (registers the environment)
from llmsched_gym.agents.base import make_policy
from llmsched_gym.agents.decima.network import DecimaNetwork
from llmsched_gym.agents.learning import checkpoint
from llmsched_gym.agents.learning.checkpoint import CheckpointError, load, save

TENSORS = {
    "weights": torch.linspace(-1, 1, 24).reshape(4, 6),
    "moments": torch.tensor([[1e-300, np.pi]], dtype=torch.float64),
    "steps": torch.tensor(2**53 + 1),
    "flags": torch.tensor([True, False]),
    "nothing": torch.zeros(0, 3),
}
META = {"kind": "decima", "network": {"embedding": 8}, "best_jct_s": 1 / 3, "names": ["ü", "\n"]}


def framed(header: Any, content: bytes = b"") -> bytes:
    """A file of the format with any header."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content


def described(path: Path, tensors: dict[str, Tensor], description: str) -> None:
    """A checkpoint with any description, and a checksum that is right."""
    header = f"{checkpoint._checksum(tensors, description)} {description}"
    save_file(tensors, path, {checkpoint.KEY: header})


def error_of(path: Path, kind: str = "decima") -> str:
    with pytest.raises(CheckpointError) as caught:
        load(path, kind)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def assert_same(found: tuple[dict[str, Tensor], dict[str, Any]]) -> None:
    tensors, meta = found
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)
    assert meta == {**META, "features": checkpoint.FEATURES}


def test_a_round_trip_is_exact(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "best.safetensors"
    save(path, TENSORS, META)
    assert_same(load(path))
    content = path.read_bytes()
    save(path, *load(path))
    assert path.read_bytes() == content
    assert os.listdir(path.parent) == [path.name]


def test_arrays_and_views_are_saved_as_what_they_show(tmp_path: Path) -> None:
    path, table = tmp_path / "one", np.arange(12.0).reshape(3, 4)
    save(path, {"array": table[:, 1], "view": torch.from_numpy(table).T}, META)
    tensors, _ = load(path)
    assert tensors["array"].tolist() == [1, 5, 9]
    assert torch.equal(tensors["view"], torch.from_numpy(table).T)


def test_an_interrupted_save_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "best.safetensors"
    save(path, TENSORS, META)

    def full(_file: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save(path, {"weights": torch.zeros(2)}, META)
    assert_same(load(path))
    assert os.listdir(tmp_path) == [path.name]


def test_what_is_not_there(tmp_path: Path) -> None:
    assert error_of(tmp_path / "none.safetensors") == "no such file"
    assert error_of(tmp_path) == "no such file"


@given(data=st.data())
def test_a_damaged_file_is_never_taken(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "best.safetensors"
    save(path, TENSORS, META)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans(), label="cut off"):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        found = load(path)
    except CheckpointError:
        error_of(path)
    else:
        assert_same(found)  # what was damaged says nothing


@pytest.mark.parametrize("content", [b"", b"junk" * 100, b"\x80\x04K\x01."])
def test_other_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.pt"
    path.write_bytes(content)
    assert error_of(path).startswith("damaged, or not a checkpoint: ")


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("<Q", 10 * 2**30) + b"{}",  # claims 10 GB
        struct.pack("<Q", 2**64 - 1) + b"{}",
        framed({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}),
        framed({"a": {"dtype": "F32", "shape": [0, 2**62], "data_offsets": [0, 0]}}),
        framed({"a": {"dtype": "F99", "shape": [], "data_offsets": [0, 0]}}),
        framed({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"1234"),
        framed({"__metadata__": [1]}),
        framed([]),
    ],
)
def test_headers_of_all_sorts(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "odd.safetensors"
    path.write_bytes(header)
    error_of(path)


@pytest.mark.parametrize(
    "description",
    [
        *("", "x", "[]", "3", "{}", "[" * 100_000),
        *('{"kind": ["decima"]}', '{"kind": "decima"}', '{"kind": "decima", "features": []}'),
        '{"kind": "decima", "features": {"stages": [[1]]}}',
    ],
)
def test_descriptions_of_all_sorts(tmp_path: Path, description: str) -> None:
    path = tmp_path / "odd.safetensors"
    described(path, TENSORS, description)
    assert error_of(path) == "its description is not that of a checkpoint"


def test_tensors_of_somebody_else(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    for metadata in (None, {"format": "pt"}, {"meta": "{}"}):
        save_file(TENSORS, path, metadata)
        assert error_of(path) == "not a checkpoint of this package"


def test_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "training.safetensors"
    save(path, TENSORS, {"kind": "decima training"})
    load(path, "decima training")
    assert error_of(path) == "a checkpoint of 'decima training', not of 'decima'"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"jobs": ["age_s", "luck"]}, "of jobs than observations have: "),
        ({"stages": checkpoint.FEATURES["stages"][::-1]}, "of stages than .* have: their order"),
        ({"cluster": [*checkpoint.FEATURES["cluster"], "x"]}, "of cluster than .* have: x"),
    ],
)
def test_other_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, list[str]], message: str
) -> None:
    path = tmp_path / "old.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FEATURES", {**checkpoint.FEATURES, **change})
        save(path, TENSORS, META)
    with pytest.raises(CheckpointError, match=f"made for other features {message}"):
        load(path)
    error_of(path)


# --- policies from files of all sorts -------------------------------------------------------------

SIZES: dict[str, Any] = {"embedding": 2, "hidden": 3, "head": 2}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
ODD = [float("nan"), float("inf"), -1, 0, True, "8", None, 10**30, 1025, [], {}, 2.0]


def weights() -> dict[str, Tensor]:
    return dict(DecimaNetwork(**SIZES).state_dict())


def one_short_line(message: str) -> str:
    assert "\n" not in message
    assert len(message) < 1000
    return message


def policy_of(path: Path) -> str | None:
    """None if the file makes a policy that acts, else the error in one line."""
    with suppress(CheckpointError):
        load(path)
    try:
        policy = make_policy("decima", checkpoint=str(path))
    except ValueError as error:
        return one_short_line(str(error))
    env = gymnasium.make("LLMSched-v0", workload="planning", num_jobs=2)
    observation, _ = env.reset(seed=0)
    assert observation["action_mask"][policy.act(observation)] == 1
    return None


def test_weights_that_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    save(path, weights(), {"kind": "decima", "network": SIZES})
    assert policy_of(path) is None


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("name", SIZES)
def test_sizes_of_all_sorts(tmp_path: Path, name: str, value: Any) -> None:
    path = tmp_path / "odd.safetensors"
    save(path, weights(), {"kind": "decima", "network": SIZES | {name: value}})
    assert "embedding, head, hidden are whole numbers between 1 and 1024" in str(policy_of(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w["score.bias"].fill_(torch.nan), "'score.bias' holds a number that is not fin"),
        (lambda w: w["heads.weight"].fill_(torch.inf), "'heads.weight' holds a number that is not"),
        (lambda w: w.pop("score.bias"), "'score.bias' is missing"),
        (lambda w: w.update(more=torch.zeros(1)), "'more' does not belong there"),
        (lambda w: w.update({"score.bias": torch.zeros(2)}), "'score.bias' is (2,) of torch.float"),
        (
            lambda w: w.update({"score.bias": w["score.bias"].double()}),
            "is (1,) of torch.float64, ",
        ),
        (lambda w: w.update({"score.bias": w["score.bias"].bfloat16()}), "unsupported ScalarType"),
        (lambda w: [w.pop(name) for name in [*w][1:]], " is missing"),
    ],
)
def test_weights_of_all_sorts(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], Any], message: str
) -> None:
    path, tensors = tmp_path / "odd.safetensors", weights()
    change(tensors)
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    meta = {"kind": "decima", "network": SIZES, "features": checkpoint.FEATURES}
    try:
        described(path, whole, json.dumps(meta))
    except TypeError:  # torch gives no bytes of it, so it has no checksum either
        save_file(whole, path, {checkpoint.KEY: f"0 {json.dumps(meta)}"})
    assert message in str(policy_of(path))


@st.composite
def files(draw: st.DrawFn) -> Callable[[Path], Any]:
    """Writes a file that is more or less like a checkpoint."""
    kind = draw(st.sampled_from(["bytes", "header", "tensors", "description"]))
    if kind == "bytes":
        content = draw(st.binary(max_size=200))
        return lambda path: [path.write_bytes(content)]
    if kind == "header":
        entry = st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "F64", "I64", "BOOL", "BF16", "F8_E4M3", "X"]),
                "shape": st.lists(st.integers(-1, 2**63), max_size=3) | JSON,
                "data_offsets": st.lists(st.integers(0, 2**40), max_size=3) | JSON,
            }
        )
        content = framed(
            draw(st.dictionaries(st.text(max_size=9), entry | JSON, max_size=3) | JSON),
            draw(st.binary(max_size=64)),
        )
        return lambda path: [path.write_bytes(content)]
    tensors, meta = weights(), {"kind": "decima", "network": SIZES, "features": checkpoint.FEATURES}
    if kind == "tensors":
        name = draw(st.sampled_from(sorted(tensors)))
        number = draw(st.floats(width=32))
        flat = tensors[name].reshape(-1)
        flat[draw(st.integers(0, len(flat) - 1))] = number
        if draw(st.booleans()):
            tensors[draw(st.text(max_size=5))] = tensors.pop(name)
    else:
        where: Any = draw(st.sampled_from([meta, {**SIZES}, dict(checkpoint.FEATURES)]))
        where[draw(st.sampled_from(sorted(where)) | st.text(max_size=5))] = draw(JSON)
        meta = {**meta, **({"network": where} if "head" in where else {})}
        meta = {**meta, **({"features": where} if "stages" in where else {})}
    text = json.dumps(meta)
    return lambda path: described(path, tensors, text)


def check_any_file(write: Callable[[Path], None], folder: Path) -> None:
    path = folder / "any.safetensors"
    write(path)
    policy_of(path)


@given(files())
def test_any_file_makes_a_policy_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, write: Callable[[Path], None]
) -> None:
    check_any_file(write, tmp_path_factory.mktemp("any"))


@pytest.mark.slow
@settings(max_examples=2000)
@given(files())
def test_many_files_make_a_policy_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, write: Callable[[Path], None]
) -> None:
    check_any_file(write, tmp_path_factory.mktemp("any"))


@pytest.mark.parametrize("name", ["\0", "x" * 5000, "", "/dev/null", "..", "\ud800"])
def test_names_of_no_file(name: str) -> None:
    with pytest.raises(ValueError, match="checkpoint: no file "):
        make_policy("decima", checkpoint=name)
