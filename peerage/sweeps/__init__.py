"""Sweeps: every combination of settings, environments and seeds in a file, trained in parallel and resumable.

    from peerage.sweeps.drive import run
    status = run("quick", jobs=2)

`file` reads a sweep file, `choices` the values of its axes; `plan` turns it into runs; `state` inspects the run folders
that exist; `launch` starts worker processes (`worker`, which calls `work`); `drive` trains the sweep; `progress` prints
the progress; and `dry_run` prints the plan. Importing the package itself imports none of them.
"""
