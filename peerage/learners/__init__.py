"""Learning algorithms. A learner consists of two files: `NAME_settings.py` (light: settings, defaults, registration)
and `NAME.py` (the algorithm). Importing this package imports all `*_settings.py` files, which register the learners."""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    if _module.name.endswith("_settings"):
        import_module(f"{__name__}.{_module.name}")
