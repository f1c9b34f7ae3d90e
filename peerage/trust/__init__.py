"""How an asking member scores its advisers. A kind of trust is two files: `NAME_settings.py` (light) and the rule.
Importing this package registers every kind of trust whose settings are here."""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    if _module.name.endswith("_settings"):
        import_module(f"{__name__}.{_module.name}")
