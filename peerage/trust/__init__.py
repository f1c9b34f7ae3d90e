"""How an asking member scores its advisers. A kind of trust is two files: `NAME_settings.py`, which describes it
without torch, and the implementation. Importing this package registers all kinds whose settings are here."""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    if _module.name.endswith("_settings"):
        import_module(f"{__name__}.{_module.name}")
