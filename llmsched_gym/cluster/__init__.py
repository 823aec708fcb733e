"""What runs: LLM engines and regular executors, simulated exactly.

Its public names, which are imported when they are first used, are listed in ``__init__.pyi``.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
