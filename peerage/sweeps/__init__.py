"""Sweeps: every combination of settings, environments and seeds in a file, trained in parallel and resumable.

    from peerage.sweeps import run
    status = run("quick", jobs=2)

`file` reads a sweep file, `choices` the values of its axes; `plan` turns it into runs; `state` inspects the run folders
that exist; `launch` starts worker processes (`worker`); `drive` trains the sweep; `progress` prints the progress; and
`dry_run` prints the plan.
"""

from peerage.sweeps.drive import run
from peerage.sweeps.file import describe, sweep_names
from peerage.sweeps.plan import Sweep, plan_sweep

__all__ = ["Sweep", "describe", "plan_sweep", "run", "sweep_names"]
