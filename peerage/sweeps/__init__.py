"""Sweeps: settings x environments x seeds from one file, trained in parallel and gone on with after an interruption.

    from peerage.sweeps import run
    status = run("quick", jobs=2)

`file` reads a file (`choices`: the values of its axes), `plan` makes runs of it, `state` looks at what there is,
`launch` starts processes, `worker` is such a process, `drive` brings them together, `progress` says how it stands and
`dry_run` what would be done. Light to import: nothing here needs torch before a worker trains.
"""

from peerage.sweeps.drive import run
from peerage.sweeps.file import describe, sweep_names
from peerage.sweeps.plan import Sweep, plan_sweep

__all__ = ["Sweep", "describe", "plan_sweep", "run", "sweep_names"]
