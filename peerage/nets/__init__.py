"""Stacked networks: one pass computes the networks of all members. Importing this package imports all `*_settings.py`
files, which register kinds of networks for learners."""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    if _module.name.endswith("_settings"):
        import_module(f"{__name__}.{_module.name}")
