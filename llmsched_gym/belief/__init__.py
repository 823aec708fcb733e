"""What is known: Bayesian networks over an application's stages, and what they say of a job.

Its public names, which are imported when they are first used, are listed in ``__init__.pyi``.
"""

import warnings

import lazy_loader

# In a notebook pgmpy, which fits networks, would like to have ipywidgets for its progress bars, and
# says so in red; it shows none here.
warnings.filterwarnings("ignore", "IProgress not found")
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
