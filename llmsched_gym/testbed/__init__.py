"""The same schedulers on real LLM servers: what was simulated, played in real time.

Its public names, which are imported when they are first used, are listed in ``__init__.pyi``. It
needs the extra ``llmsched-gym[testbed]``.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
