"""The modules that MkDocs runs are found as it finds them."""

import sys

from support.pages import ROOT

sys.path.append(str(ROOT / "docs" / "hooks"))
