"""The run folder on disk, the listeners that log a training, and checkpoints.

Importing the package is fast: pandas, rich, torch and the packages of the loggers are imported only when needed.
"""

from peerage.runs.folder import RunFolder, default_name
from peerage.runs.listeners import Listener, Listeners, RunInfo
from peerage.runs.tables import CsvLog, read_advice, read_evaluations, read_metrics, read_timing

__all__ = [
    "CsvLog",
    "Listener",
    "Listeners",
    "RunFolder",
    "RunInfo",
    "default_name",
    "read_advice",
    "read_evaluations",
    "read_metrics",
    "read_timing",
]
