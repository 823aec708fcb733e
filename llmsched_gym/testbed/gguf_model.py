"""Llama models of random weights, as GGUF files: real work for a server, and no download.

What a token costs depends on the sizes of a model and not on its weights. These are quantized to
Q4_0, for which llama.cpp has its fastest and most regular kernels on a CPU.

The rows of the output matrix for control and byte tokens are zero, so that at temperature 0 these
are never generated: some other logit is above 0. So each token is one printable word and one event
of a stream, and none ends it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.files import replacing
from llmsched_gym.testbed.extra import NEEDED
from llmsched_gym.testbed.prompts import VOCABULARY

try:
    import gguf
except ImportError as error:
    raise ImportError(NEEDED) from error

_CONTROL = ("<unk>", "<s>", "</s>")
_SPECIAL = len(_CONTROL) + 256  # and one token for each byte
_VERSION = 1  # of what is written here: part of the names of kept files
_CONTEXT = 2**17  # tokens that a model says it was trained with, so that no server warns


@dataclass(frozen=True)
class Size:
    """The sizes of a Llama model: its width, layers, heads and the width within a layer."""

    width: int
    layers: int
    heads: int
    inner: int

    @property
    def parameters(self) -> int:
        """Weights, without the norms."""
        layer = 4 * self.width**2 + 3 * self.width * self.inner
        return self.layers * layer + 2 * VOCABULARY * self.width


SIZES = {
    "4M": Size(width=256, layers=4, heads=4, inner=512),
    "25M": Size(width=512, layers=7, heads=8, inner=1376),
    "100M": Size(width=1024, layers=7, heads=16, inner=2752),
}


def model_file(size: str, seed: int = 0, cache_dir: Path | None = None) -> Path:
    """The GGUF file of a model, which is made if it is not kept yet.

    Parameters
    ----------
    size : a name in ``SIZES``.
    seed : of its weights.
    cache_dir : where it is kept, default the user's cache directory.

    Raises
    ------
    ValueError
        for an unknown size.
    OSError
        if it cannot be written.
    """
    if size not in SIZES:
        raise ValueError(f"size: unknown {size!r}, choose from {', '.join(SIZES)}")
    if cache_dir is None:
        from platformdirs import user_cache_path

        cache_dir = user_cache_path("llmsched-gym")
    path = cache_dir / f"llama-{size}-{seed}-v{_VERSION}.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            write_model(part, SIZES[size], size, seed)
    return path


def write_model(path: Path, size: Size, name: str, seed: int) -> None:
    """Write a model of random weights, the same bytes for the same arguments.

    Raises
    ------
    OSError
        if it cannot be written.
    """
    writer = gguf.GGUFWriter(path, "llama")
    try:
        _describe(writer, size, name)
        for tensor, values in _weights(size, np.random.default_rng(seed)):
            if values.ndim == 1:
                writer.add_tensor(tensor, values)
                continue
            kind = gguf.GGMLQuantizationType.Q4_0
            writer.add_tensor(tensor, gguf.quants.quantize(values, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _describe(writer: Any, size: Size, name: str) -> None:
    """The sizes of a model and its vocabulary: control tokens, bytes, and words a, b, ..., aa."""
    writer.add_name(f"random-{name}")
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(size.width)
    writer.add_block_count(size.layers)
    writer.add_feed_forward_length(size.inner)
    writer.add_head_count(size.heads)
    writer.add_head_count_kv(size.heads)
    writer.add_rope_dimension_count(size.width // size.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCABULARY)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)

    words = VOCABULARY - _SPECIAL
    types = gguf.TokenType
    writer.add_tokenizer_model("llama")
    writer.add_token_list(
        [*_CONTROL, *(f"<0x{byte:02X}>" for byte in range(256)), *map(_word, range(words))]
    )
    writer.add_token_scores([0.0] * _SPECIAL + [-float(rank) for rank in range(words)])
    writer.add_token_types(
        [types.UNKNOWN, types.CONTROL, types.CONTROL] + [types.BYTE] * 256 + [types.NORMAL] * words
    )
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)


def _word(number: int) -> str:
    """a, b, ..., z, aa, ab, ..."""
    letters = ""
    number += 1
    while number:
        number, letter = divmod(number - 1, 26)
        letters = chr(ord("a") + letter) + letters
    return letters


def _weights(size: Size, rng: np.random.Generator) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Names and values of all tensors; matrices keep the size of what they are applied to."""

    def matrix(rows: int, columns: int) -> NDArray[np.float32]:
        scale = np.float32(np.sqrt(3 / columns))  # uniform, of variance 1 / columns
        return (2 * rng.random((rows, columns), np.float32) - 1) * scale

    one = np.ones(size.width, np.float32)
    yield "token_embd.weight", matrix(VOCABULARY, size.width)
    for layer in range(size.layers):
        block = f"blk.{layer}"
        yield f"{block}.attn_norm.weight", one
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            yield f"{block}.{name}.weight", matrix(size.width, size.width)
        yield f"{block}.ffn_norm.weight", one
        yield f"{block}.ffn_gate.weight", matrix(size.inner, size.width)
        yield f"{block}.ffn_up.weight", matrix(size.inner, size.width)
        yield f"{block}.ffn_down.weight", matrix(size.width, size.inner)
    yield "output_norm.weight", one
    output = matrix(VOCABULARY, size.width)
    output[:_SPECIAL] = 0
    yield "output.weight", output
