"""Exchanges between members after learning. An exchange consists of two files: `NAME_settings.py` (light: settings,
registration) and the implementation. Importing this package imports all `*_settings.py` files, which register the
exchanges."""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    if _module.name.endswith("_settings"):
        import_module(f"{__name__}.{_module.name}")
