"""Files of single requests: each becomes a job of one call, with the time at which it came.

- Mooncake: ``{"timestamp": ms, "input_length", "output_length", "hash_ids"}``, a line each
  (https://github.com/kvcache-ai/Mooncake).
- BurstGPT: ``Timestamp`` in s, ``Model``, ``Request tokens``, ``Response tokens``, ``Log Type``
  (https://github.com/HPMLL/BurstGPT). Requests that failed have 0 response tokens.
- Azure: ``TIMESTAMP`` (a date), ``ContextTokens``, ``GeneratedTokens``
  (https://github.com/Azure/AzurePublicDataset).
- vidur: ``arrived_at`` in s, in some files only, ``num_prefill_tokens``, ``num_decode_tokens``
  (https://github.com/microsoft/vidur).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from llmsched_gym.workload.importers.records import Record, number, text, time_ns, whole
from llmsched_gym.workload.importers.spans import clean_name
from llmsched_gym.workload.importers.tally import Tally
from llmsched_gym.workload.job import InvalidJob, Job, Kind, LLMTask, Stage


@dataclass(frozen=True)
class Requests:
    """Which columns such a file has.

    Attributes
    ----------
    prompt, output : of tokens.
    arrival : of the time.
    scale : seconds of a unit of that time; None if it is a date.
    application : columns that together name the application; else the file does.
    """

    prompt: str
    output: str
    arrival: str
    scale: float | None
    application: tuple[str, ...] = ()

    def recognises(self, value: dict[str, Any]) -> bool:
        """Whether a record is of this format."""
        return self.prompt in value and self.output in value

    def jobs(self, records: Iterable[Record], tally: Tally) -> Iterator[Job]:
        """One job for each request, in the order of the file."""
        for index, (place, value) in enumerate(records):
            tally.read += 1
            prompt, output = whole(value.get(self.prompt)), whole(value.get(self.output))
            if not prompt or not output:
                wrong = self.output if prompt else self.prompt
                tally.skipped.add(f"a request whose {wrong!r} is no number above 0", place)
                continue
            arrival_s = self._arrival_s(value.get(self.arrival))
            if arrival_s is None:
                tally.mended.add("a request without a time: left so", place)
            application = self._application(value, place)
            try:
                yield Job(
                    application=clean_name(application, "application", tally, place),
                    job_id=f"request-{index}",
                    stages=(Stage("call", Kind.LLM, (), (LLMTask(prompt, output),)),),
                    arrival_s=arrival_s,
                    source=place,
                )
            except InvalidJob as error:
                tally.skipped.add(f"a job that breaks a rule: {error}", place)

    def _arrival_s(self, value: Any) -> float | None:
        if self.scale is None:
            moment = time_ns(value)
            return None if moment is None else moment / 1e9
        found = number(value)
        return None if found is None else found * self.scale

    def _application(self, value: dict[str, Any], place: str) -> str:
        named = [name for column in self.application if (name := text(value.get(column)))]
        if named:
            return ", ".join(named)
        stem = PurePath(place.rpartition(":")[0]).name
        return re.sub(r"(\.jsonl?|\.csv)?(\.gz)?$", "", stem, flags=re.IGNORECASE)


MOONCAKE = Requests("input_length", "output_length", "timestamp", 1e-3)
BURSTGPT = Requests(
    "Request tokens", "Response tokens", "Timestamp", 1.0, application=("Model", "Log Type")
)
AZURE = Requests("ContextTokens", "GeneratedTokens", "TIMESTAMP", None)
VIDUR = Requests("num_prefill_tokens", "num_decode_tokens", "arrived_at", 1.0)
