"""What an experiment consists of.

*Cells*: a few episodes of one policy in one place. Each is played once, whatever number of studies
it belongs to, and kept in a file of its own as soon as it is finished; all tables and figures are
made from these files.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from llmsched_gym.belief.profile import BeliefSettings
from llmsched_gym.cluster.preset import Cluster
from llmsched_gym.files import replacing
from llmsched_gym.workload.mixes import Workload

EVALUATED = "llmsched"  # the policy that others are compared with
QUALITY = "belief"  # the cells that judge beliefs


@dataclass(frozen=True, order=True)
class Place:
    """Where policies are compared."""

    workload: str
    load: float
    engines: int


@dataclass(frozen=True)
class Variant:
    """A policy and what it is shown.

    ``options`` are those that differ from the defaults; ``files`` is a digest of the files that
    they name, such as a checkpoint.
    """

    policy: str
    options: tuple[tuple[str, Any], ...]
    belief: str
    settings: BeliefSettings
    files: str = ""


@dataclass(frozen=True)
class Cell:
    """Episodes ``first`` to ``last`` of a variant in a place: the unit of work."""

    place: Place
    variant: Variant
    num_jobs: int
    first: int
    last: int

    @property
    def title(self) -> str:
        """What it is, in a few words."""
        place = self.place
        return f"{place.workload} load {place.load:g} {place.engines} engines {self.variant.policy}"


@dataclass(frozen=True)
class Row:
    """A policy's label in a place of a study, and its cells."""

    study: str
    place: Place
    label: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, eq=False)
class Bench:
    """All that the cells of an experiment have in common: what a process needs to play them.

    Attributes
    ----------
    workloads, cluster, seed : by label; with the number of engines of the main study; of all.
    folder : of the files of cells.
    digests : of each workload's jobs and arrivals.
    made_by : a digest of the code.
    clusters : of the workloads that have one of their own.
    """

    workloads: dict[str, Workload]
    cluster: Cluster
    seed: int
    folder: Path
    digests: dict[str, str]
    made_by: str
    clusters: dict[str, Cluster] = field(default_factory=dict)

    def cluster_at(self, place: Place) -> Cluster:
        """Where policies of a place play."""
        return replace(self.clusters.get(place.workload, self.cluster), engines=place.engines)

    def settings(self, cell: Cell) -> dict[str, Any]:
        """All that the outcome of a cell depends on, but the code."""
        here = self.cluster_at(cell.place)
        latency = here.latency
        cluster = {
            "decode": latency.decode_coefficients,
            "prefill": latency.prefill_coefficients,
            "kv_capacity_tokens": latency.kv_capacity_tokens,
            "traits": [latency.token_budget, latency.joins],
            "max_batch": here.max_batch,
            "regular_executors": here.regular_executors,
        }
        jobs = self.digests[cell.place.workload]
        return {"cell": asdict(cell), "cluster": cluster, "jobs": jobs, "seed": self.seed}

    def path(self, cell: Cell) -> Path:
        """The file of a cell."""
        text = json.dumps(self.settings(cell), sort_keys=True)
        title = "".join(x if x.isalnum() or x in "._" else "-" for x in cell.title)
        mark = hashlib.sha256(text.encode()).hexdigest()[:12]
        return self.folder / f"{title}_{cell.first}-{cell.last}_{mark}.cell"


@dataclass(frozen=True)
class Experiment:
    """An experiment: the cells are in the order in which they are played."""

    bench: Bench
    rows: tuple[Row, ...]
    quality: tuple[Cell, ...]
    notes: tuple[str, ...]

    @property
    def cells(self) -> list[Cell]:
        """Each once. The main study comes first, its first load and its first episodes before all.

        The judgement of beliefs comes before the other studies.
        """
        main = [row for row in self.rows if row.study == "main"]
        others = [row for row in self.rows if row.study != "main"]
        loads = {load: n for n, load in enumerate(dict.fromkeys(row.place.load for row in main))}

        def order(cell: Cell) -> tuple[int, int]:
            return loads[cell.place.load], cell.first

        first = sorted((cell for row in main for cell in row.cells), key=order)
        rest = (cell for row in others for cell in row.cells)
        return list(dict.fromkeys([*first, *self.quality, *rest]))

    def weight(self, cell: Cell) -> float:
        """About in proportion to the time that a cell takes: its decisions."""
        bank = self.bench.workloads[cell.place.workload].bank
        tasks = len(bank.prompt_tokens) / len(bank) * cell.num_jobs
        return tasks * (cell.last - cell.first + 1) * (4 if cell.variant.policy == QUALITY else 1)


# --- The files of cells ---------------------------------------------------------------------------


def save(bench: Bench, cell: Cell, content: Any) -> None:
    """Write the file of a cell: whole, or not at all."""
    body = {"made_by": bench.made_by, "settings": bench.settings(cell), "content": content}
    packed = gzip.compress(json.dumps(body, sort_keys=True).encode(), 6, mtime=0)
    with replacing(bench.path(cell)) as part:
        part.write_bytes(hashlib.sha256(packed).hexdigest().encode() + b"\n" + packed)


def load(bench: Bench, cell: Cell) -> Any:
    """The content of a cell's file; None unless it is whole, of this cell and of this code."""
    try:
        checksum, _, packed = bench.path(cell).read_bytes().partition(b"\n")
    except FileNotFoundError:
        return None
    if hashlib.sha256(packed).hexdigest().encode() != checksum:
        return None
    body = json.loads(gzip.decompress(packed))
    made_by, settings = bench.made_by, json.loads(json.dumps(bench.settings(cell)))
    return body["content"] if (body["made_by"], body["settings"]) == (made_by, settings) else None
