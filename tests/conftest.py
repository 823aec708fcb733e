# mypy: no-disallow-untyped-defs, no-disallow-untyped-calls, no-disallow-incomplete-defs
import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("any machine", deadline=None)  # a busy machine is no failure
settings.load_profile("any machine")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of measured data, where there is one."""
    folder = Path(os.environ.get("LLMSCHED_SHARED", ROOT.parent / "shared"))
    if not (folder / "traces").is_dir():
        pytest.skip(f"no measured data: {folder} (set LLMSCHED_SHARED)")
    return folder
