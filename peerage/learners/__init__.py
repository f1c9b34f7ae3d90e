"""Learning algorithms. A learner is two files: `NAME_settings.py` (light: its settings, their defaults, what it can do)
and `NAME.py` (the algorithm). Importing this package registers every learner whose settings are here."""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    if _module.name.endswith("_settings"):
        import_module(f"{__name__}.{_module.name}")
