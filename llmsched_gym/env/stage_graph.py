"""The class of the graphs of :func:`~llmsched_gym.env.geometric.graph_data`: it imports torch."""

from __future__ import annotations

from typing import Any

from torch_geometric.data import Data


class StageGraph(Data):  # type: ignore[misc]  # its library says nothing of types
    """A graph of stages that PyTorch Geometric can put in batches with others."""

    def __inc__(self, key: str, value: Any, *args: Any, **options: Any) -> Any:
        """What is added to numbers when another graph comes after this one.

        Raises
        ------
        ValueError
            for a graph of many environments: a batch would count them as one.
        """
        if key in ("batch", "job_batch"):
            count = self.cluster.size(0)
            if count != 1:
                raise ValueError(
                    f"a graph of {count} environments is a batch already: stack the observations "
                    "and call graph_data() once, or make a graph of each"
                )
            return 1
        if key == "job":
            return self.jobs.size(0)
        return super().__inc__(key, value, *args, **options)
