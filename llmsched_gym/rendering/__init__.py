"""Pictures of a run: who ran where and when, what a job looks like, what was believed of it.

Its public names, which are imported when they are first used, are listed in ``__init__.pyi``.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
