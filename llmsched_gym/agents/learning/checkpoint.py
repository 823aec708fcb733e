"""Checkpoints of learned policies: named tensors, and a description of what they belong to.

One file in the safetensors format, which runs no code when it is read. The description is in its
header, as JSON.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from llmsched_gym.env.features import CLUSTER_FEATURES, JOB_FEATURES, STAGE_FEATURES
from llmsched_gym.files import replacing

KEY = "llmsched_gym"  # of the checksum and the description in the header
FEATURES = {
    table: [feature.name for feature in features]
    for table, features in (
        ("stages", STAGE_FEATURES),
        ("jobs", JOB_FEATURES),
        ("cluster", CLUSTER_FEATURES),
    )
}


class CheckpointError(ValueError):
    """A file that is not a checkpoint of the kind that is wanted: one line that names it."""


def save(path: Path, tensors: Mapping[str, Tensor | NDArray[Any]], meta: Mapping[str, Any]) -> None:
    """Write a checkpoint: all of it or nothing, even if the machine stops in between.

    Parameters
    ----------
    path
        The file. Folders on the way to it are made.
    tensors
        Of any shapes and numbers, on the CPU.
    meta
        What JSON can hold. ``meta["kind"]`` is the learner whose policy runs the network, such as
        "decima", and ``meta["network"]`` are the options to make it with. Added are "features",
        the names of the columns of observations.

    Raises
    ------
    OSError
        where it cannot be written.
    """
    whole = {name: torch.as_tensor(tensor).contiguous() for name, tensor in tensors.items()}
    description = json.dumps({**meta, "features": FEATURES}, sort_keys=True)
    header = {KEY: f"{_checksum(whole, description)} {description}"}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part, part.open("wb") as file:
        file.write(serialise(whole, header))
        file.flush()
        os.fsync(file.fileno())


def load(path: Path, kind: str = "decima") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the description of a checkpoint.

    Raises
    ------
    CheckpointError
        if there is no such file, it is damaged or of another kind, or observations had other
        features when it was made.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = (file.metadata() or {}).get(KEY)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged, or not a checkpoint: {error}") from error
    if header is None:
        raise CheckpointError(f"{path}: not a checkpoint of this package")
    checksum, _, description = header.partition(" ")
    if checksum != _checksum(tensors, description):
        raise CheckpointError(f"{path}: damaged, not what was saved")
    meta = json.loads(description)
    if meta.get("kind") != kind:
        raise CheckpointError(f"{path}: a checkpoint of {meta.get('kind')!r}, not of {kind!r}")
    _check_features(path, meta["features"])
    return tensors, meta


def _checksum(tensors: Mapping[str, Tensor], description: str) -> str:
    checksum = zlib.crc32(description.encode())
    for name, tensor in sorted(tensors.items()):
        kind = f"{name} {tensor.dtype} {tuple(tensor.shape)}"
        checksum = zlib.crc32(tensor.numpy().tobytes(), zlib.crc32(kind.encode(), checksum))
    return f"{checksum:08x}"


def _check_features(path: Path, features: Mapping[str, list[str]]) -> None:
    for table, names in FEATURES.items():
        theirs = features[table]
        if theirs != names:
            differ = ", ".join(sorted({*theirs} ^ {*names})) or "their order"
            raise CheckpointError(
                f"{path}: made for other features of {table} than observations have: {differ}"
            )
