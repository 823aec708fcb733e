import subprocess
import sys
from pathlib import Path

CALLER = """
import called
from llmsched_gym.compiled import compiled, sources

def version_of(version):
    def call():
        version
        return called.answer()
    return compiled(call)

print(version_of(sources(called))())
"""

CALLED = """
from llmsched_gym.compiled import compiled

@compiled
def answer():
    return {}
"""


def test_a_closure_over_sources_sees_edited_callees(tmp_path: Path) -> None:
    def run() -> int:
        command = [sys.executable, "-B", "caller.py"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return int(done.stdout)

    (tmp_path / "caller.py").write_text(CALLER)
    for answer in (1, 2):
        (tmp_path / "called.py").write_text(CALLED.format(answer))
        assert run() == answer
        assert run() == answer  # from the cache
