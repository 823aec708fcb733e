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
from safetensors import safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from llmsched_gym.env.features import CLUSTER_FEATURES, JOB_FEATURES, STAGE_FEATURES
from llmsched_gym.errors import one_line
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


FIRST = {"stages": 13, "jobs": 13, "cluster": 9}  # columns when the first networks were shipped


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


def load(
    path: Path, kind: str = "decima", fewer: bool = False
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the description of a checkpoint.

    Parameters
    ----------
    fewer
        Whether one will do that was made when tables of observations had fewer columns. New ones
        are only ever appended, so that a network can go on reading the first.

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
        checksum, _, description = ("" if header is None else header).partition(" ")
        whole = header is None or checksum == _checksum(tensors, description)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {one_line(error)}") from error
    except Exception as error:  # whatever safetensors and torch make of it
        raise CheckpointError(f"{path}: damaged, or not a checkpoint: {one_line(error)}") from error
    if header is None:
        raise CheckpointError(f"{path}: not a checkpoint of this package")
    if not whole:
        raise CheckpointError(f"{path}: damaged, not what was saved")
    meta = _described(path, description)
    if meta["kind"] != kind:
        raise CheckpointError(f"{path}: a checkpoint of {meta['kind']!r:.80}, not of {kind!r}")
    _check_features(path, meta["features"], fewer)
    return tensors, meta


def _described(path: Path, description: str) -> dict[str, Any]:
    """What a description says, "kind" and "features" among it."""
    try:
        meta = json.loads(description)
    except (ValueError, RecursionError):
        meta = None
    if isinstance(meta, dict) and isinstance(meta.get("kind"), str):
        features = meta.get("features")
        if isinstance(features, dict) and all(_is_names(features.get(name)) for name in FEATURES):
            return meta
    raise CheckpointError(f"{path}: its description is not that of a checkpoint")


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def check_tensors(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """ValueError unless there are tensors of the same names, shapes and types, all finite."""
    if differ := sorted(tensors.keys() ^ wanted.keys()):
        what = "is missing" if differ[0] in wanted else "does not belong there"
        raise ValueError(f"{differ[0]!r:.80} {what}")
    for name, tensor in tensors.items():
        shape, kind = tuple(wanted[name].shape), wanted[name].dtype
        if tuple(tensor.shape) != shape or tensor.dtype != kind:
            found = f"{tuple(tensor.shape)} of {tensor.dtype}"
            raise ValueError(f"{name!r} is {found}, not {shape} of {kind}")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name!r} holds a number that is not finite")


def _checksum(tensors: Mapping[str, Tensor], description: str) -> str:
    checksum = zlib.crc32(description.encode())
    for name, tensor in sorted(tensors.items()):
        kind = f"{name} {tensor.dtype} {tuple(tensor.shape)}"
        checksum = zlib.crc32(tensor.numpy().tobytes(), zlib.crc32(kind.encode(), checksum))
    return f"{checksum:08x}"


def _check_features(path: Path, features: Mapping[str, list[str]], fewer: bool) -> None:
    for table, names in FEATURES.items():
        theirs = features[table]
        wanted = names[: max(len(theirs), FIRST[table])] if fewer else names
        if theirs != wanted:
            differ = ", ".join(sorted({*theirs} ^ {*names})) or "their order"
            raise CheckpointError(
                f"{path}: made for other features of {table} than observations have: "
                f"{' '.join(differ.split()):.200}"
            )
