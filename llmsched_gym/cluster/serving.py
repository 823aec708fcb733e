"""How the serving engines that people run drive a GPU: their traits, by name.

They are those of each engine's HTTP server with default options on a data-centre GPU.
docs/engines.md has the addresses, and what such an engine does beyond these traits.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Serving:
    """Traits of a :class:`~llmsched_gym.cluster.latency.LatencyProfile`, and their source."""

    prefill: str
    token_budget: int | None
    joins: str
    source: str


SERVING = {
    "ideal": Serving(
        "exclusive", None, "at_boundary", "the presets' own: an engine that reacts in no time"
    ),
    "llama_cpp": Serving(
        "mixed", 2048, "late", "tools/server: --batch-size 2048; update_slots puts decoding first"
    ),
    "sglang": Serving(
        "exclusive", None, "late", "enable_mixed_chunk=False: a batch is all prefill or all decode"
    ),
    "tensorrt_llm": Serving(
        "mixed", 8192, "late", "max_num_tokens 8192; context and generation in one iteration"
    ),
    "vllm": Serving(
        "mixed", 2048, "late", "V1: chunked prefill; max_num_batched_tokens 2048, A100 included"
    ),
}
