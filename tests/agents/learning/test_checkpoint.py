"""Checkpoints come back as they were saved, or not at all."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

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
