"""Files of single requests."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from llmsched_gym.workload import import_traces
from llmsched_gym.workload.job import LLMTask

MOONCAKE = """
{"timestamp": 0, "input_length": 6755, "output_length": 500, "hash_ids": [0, 1]}
{"timestamp": 3052, "input_length": 7319, "output_length": 490, "hash_ids": [0, 14]}
"""
BURSTGPT = """\
Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,GPT-4,1087,230,1317,API log
50,GPT-4,1087,0,1087,API log
"""
BURSTGPT_2 = """\
Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type
5.5,1,0.4,ChatGPT,472,18,490,Conversation log
"""
AZURE = """\
TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319600,3180,8
"""
AZURE_2024 = """\
TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.009930+00:00,2162,5
"""
VIDUR = "arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,374,44\n4.314579,396,109\n"
VIDUR_UNTIMED = (
    "num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\n3772,54,3826,69.85\n"
)


@pytest.mark.parametrize(
    ("name", "text", "format", "application", "task", "times"),
    [
        ("m.jsonl", MOONCAKE, "mooncake", "m", (6755, 500), [0, 3.052]),
        ("b.csv", BURSTGPT, "burstgpt", "ChatGPT, Conversation log", (472, 18), [5, 45]),
        ("b.csv", BURSTGPT_2, "burstgpt", "ChatGPT, Conversation log", (472, 18), [5.5]),
        ("code.csv", AZURE, "azure", "code", (4808, 10), [1700158623.97996, 1700158624.03196]),
        ("chat.CSV", AZURE_2024, "azure", "chat", (2162, 5), [1715299200.00993]),
        ("v.csv", VIDUR, "vidur", "v", (374, 44), [0, 4.314579]),
        ("v.csv", VIDUR_UNTIMED, "vidur", "v", (3772, 54), [None]),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_formats(
    tmp_path: Path,
    *,
    name: str,
    text: str,
    format: str,
    application: str,
    task: tuple[int, int],
    times: list[float | None],
    packed: bool,
) -> None:
    file = tmp_path / (f"{name}.gz" if packed else name)
    file.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    imported = import_traces(file)
    assert imported.format == format
    assert imported.jobs[0].application == application
    assert imported.jobs[0].stages[0].tasks == (LLMTask(*task),)
    assert [job.arrival_s for job in imported.jobs] == times
    assert all(len(job.stages) == 1 for job in imported.jobs)


def test_requests_that_wrote_nothing_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "b.csv"
    file.write_text(BURSTGPT + "x,GPT-4,,5,5,API log\n60,GPT-4\nlate,GPT-4,1,1,2,API log\n")
    imported = import_traces(file, "burstgpt")
    assert len(imported.jobs) == 3
    assert imported.tally.read == 6
    assert imported.tally.skipped.counts == {
        "a request whose 'Response tokens' is no number above 0": 1,
        "a request whose 'Request tokens' is no number above 0": 2,
    }
    assert imported.tally.mended.counts == {"a request without a time: left so": 1}
    assert imported.tally.mended.places["a request without a time: left so"] == f"{file}:7"


def test_files_of_a_folder_are_numbered_together(tmp_path: Path) -> None:
    (tmp_path / "code.csv").write_text(AZURE)
    (tmp_path / "chat.csv").write_text(AZURE)
    (tmp_path / "notes.json").write_text('{"by": "me"}')
    jobs = import_traces(tmp_path, application="both").jobs
    assert len({job.job_id for job in jobs}) == len(jobs) == 4
    assert {job.application for job in jobs} == {"both"}
    assert {job.application for job in import_traces(tmp_path).jobs} == {"chat", "code"}
