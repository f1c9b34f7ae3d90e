"""What members exchange after learning. An exchange is two files: `NAME_settings.py` (light) and the exchange itself.
Importing this package registers every exchange whose settings are here."""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    if _module.name.endswith("_settings"):
        import_module(f"{__name__}.{_module.name}")
