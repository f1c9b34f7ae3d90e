"""Sweeps: settings x environments x seeds from one file, trained in parallel and gone on with after an interruption.

    from peerage.sweeps import run
    status = run("quick", jobs=2)

`plan` reads a file (`choices`: the values of its axes), `state` looks at what there is, `launch` starts processes,
`worker` is such a process, `drive` brings them together and `progress` says how it stands. Light to import: nothing
here needs torch before a worker trains.
"""

from peerage.sweeps.drive import run
from peerage.sweeps.plan import Sweep, describe, plan_sweep, sweep_names

__all__ = ["Sweep", "describe", "plan_sweep", "run", "sweep_names"]
