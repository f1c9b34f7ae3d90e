"""The run folder: what a training leaves on disk, who listens to it, its figures and its report.

Light to import: pandas, matplotlib, rich and the loggers' packages come in where they are used.
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
