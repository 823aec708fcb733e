# mypy: no-disallow-untyped-defs, no-disallow-untyped-calls, no-disallow-incomplete-defs
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# The same examples in every run, so that a failure is of what was changed; others in every run of
# `make test-search`, and more of them. A busy machine is no failure.
settings.register_profile("same", deadline=None, derandomize=True, max_examples=50)
settings.register_profile("search", deadline=None)
settings.load_profile("same")

# Commands of a busy machine, or the first that compiles, say nothing more than others.
os.environ["LLMSCHED_QUIET"] = "1"

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of measured data, where there is one."""
    folder = Path(os.environ.get("LLMSCHED_SHARED", ROOT.parent / "shared"))
    if not (folder / "traces").is_dir():
        pytest.skip(f"no measured data: {folder} (set LLMSCHED_SHARED)")
    return folder


@pytest.fixture
def run_main(monkeypatch, tmp_path, capfd):
    """Runs the main function of a command in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setenv("WANDB_MODE", "offline")

    def run(main, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{main.__module__}.py"])
        os.environ["HYDRA_FULL_ERROR"] = "0"
        code: Any = 0
        try:
            main(list(arguments))
        except SystemExit as error:
            code = error.code
        return code, *capfd.readouterr()

    return run
