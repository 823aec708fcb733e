"""Who compares: policies on the same episodes.

Its public names, which are imported when they are first used, are listed in ``__init__.pyi``.
"""

import lazy_loader

from llmsched_gym.errors import need

need("commands", "comparisons", "pandas", "matplotlib")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
