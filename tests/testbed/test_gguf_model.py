from pathlib import Path

import numpy as np
import pytest

gguf = pytest.importorskip("gguf", reason="the extra llmsched-gym[testbed] is not installed")

from llmsched_gym.testbed import gguf_model as module  # noqa: E402
from llmsched_gym.testbed.gguf_model import SIZES, Size, model_file, write_model  # noqa: E402
from llmsched_gym.testbed.prompts import FIRST_ID, VOCABULARY  # noqa: E402

TINY = Size(width=64, layers=1, heads=2, inner=96)


def written(path: Path, seed: int = 0) -> bytes:
    write_model(path, TINY, "tiny", seed)
    return path.read_bytes()


def test_one_seed_determines_every_byte(tmp_path: Path) -> None:
    one = written(tmp_path / "one")
    assert one == written(tmp_path / "two")
    assert one != written(tmp_path / "three", seed=1)


def test_what_is_in_a_model(tmp_path: Path) -> None:
    written(tmp_path / "model.gguf")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    tensors = {one.name: one for one in reader.tensors}
    assert len(tensors) == 3 + 9
    output = gguf.quants.dequantize(
        tensors["output.weight"].data, gguf.GGMLQuantizationType.Q4_0
    ).reshape(VOCABULARY, TINY.width)
    special = 259  # <unk>, <s>, </s> and the bytes
    assert special < FIRST_ID
    assert (output[:special] == 0).all()
    assert (output[special:] != 0).any(axis=1).all()
    assert np.std(output[special:]) == pytest.approx(TINY.width**-0.5, rel=0.05)
    assert tensors["blk.0.ffn_down.weight"].shape.tolist() == [TINY.inner, TINY.width]

    words = reader.fields["tokenizer.ggml.tokens"].contents()
    assert len(set(words)) == len(words) == VOCABULARY
    assert words[special : special + 2] == ["a", "b"]
    assert words[special + 25 : special + 28] == ["z", "aa", "ab"]
    assert all(word.isalpha() for word in words[special:])
    assert not reader.fields["tokenizer.ggml.add_bos_token"].contents()


def test_parameters_of_the_sizes() -> None:
    assert {name: round(size.parameters / 1e6) for name, size in SIZES.items()} == {
        "4M": 5,
        "25M": 26,
        "100M": 97,
    }


def test_a_model_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.SIZES, "4M", TINY)
    folder = tmp_path / "not" / "yet"
    path = model_file("4M", cache_dir=folder)
    assert path.parent == folder
    before = path.stat()
    assert model_file("4M", cache_dir=folder) == path
    assert path.stat() == before
    assert model_file("4M", seed=1, cache_dir=folder) != path


def test_a_model_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.SIZES, "4M", TINY)

    def full(*arguments: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", full)
    with pytest.raises(OSError, match="No space left"):
        model_file("4M", cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_size() -> None:
    with pytest.raises(ValueError, match="^size: unknown '5M', choose from 4M, 25M, 100M$"):
        model_file("5M")
