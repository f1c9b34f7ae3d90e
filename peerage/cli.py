"""The console script `peerage`. Nothing heavy is imported before a command needs it.

Whatever the user can mend is one line on stderr, `peerage: ...`, and exit status 2.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
import warnings
from typing import Any

from peerage.commands.base import Command, leave_stdout
from peerage.commands.lists import ENVS, PRESETS
from peerage.commands.runs import COMPARE, EVALUATE, EXPORT, REPORT
from peerage.commands.sweep import SWEEP
from peerage.commands.train import RESUME, TRAIN
from peerage.errors import UserError, nearest

NO_MEMORY = "there is not enough memory: close other programs, or raise the limit (`ulimit -v`, that of the container)"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
"""Gymnasium's warnings are yellow."""
GOES_ON = "`peerage resume` with the run's folder goes on with a training"
COMMANDS: dict[str, Command] = {
    "train": TRAIN, "resume": RESUME, "sweep": SWEEP, "evaluate": EVALUATE, "report": REPORT, "compare": COMPARE,
    "export": EXPORT, "envs": ENVS, "presets": PRESETS,
}  # fmt: skip


def manual() -> str:
    """What `peerage --help` prints."""
    commands = "\n".join(f"  {name:9} {command.summary}" for name, command in COMMANDS.items())
    return f"""usage: peerage COMMAND ...

Groups of reinforcement-learning agents that learn from each other.

COMMANDS
{commands}

  --help, -h     show this and exit; `peerage COMMAND --help` explains a command and all its flags
  --version      print the version and exit

EXAMPLES
  peerage train --env LunarLander-v3 --n-peers 4 --total-timesteps 100000
  peerage train --config peer-hopper --replicas 3
  peerage presets
  peerage evaluate experiments/my-run --episodes 20

A mistake on the command line or in a file is answered with one line and exit status 2.
"""


def _dispatch(words: list[str]) -> None:
    if not words or words[0] in ("--help", "-h", "help"):
        print(manual(), end="")
        return
    name, rest = words[0], words[1:]
    if name == "--version":
        from peerage import __version__

        print(f"peerage {__version__}")
        return
    if name not in COMMANDS:
        kind = "flag" if name.startswith("-") else "command"
        known = [*COMMANDS, "--help", "--version"]
        raise UserError(f"unknown {kind} {name[:60]!r}{nearest(name, known)}; see `peerage --help`")
    command = COMMANDS[name]
    command.run(command.parser(name).parse(rest), ["peerage", *words])


def _say(line: str) -> None:
    """On stderr, if anybody is there to read it; nothing in it can move a terminal's cursor."""
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)[:1500]
    with contextlib.suppress(OSError, ValueError):
        print(f"peerage: {line}", file=sys.stderr)


def _warn(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    """A warning in a line of ours, not in two with a place in the program; those for programmers stay out."""
    if not issubclass(category, DeprecationWarning | PendingDeprecationWarning | ResourceWarning):
        _say(" ".join(COLOUR.sub("", str(message)).split()))


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit status: 0, 2 for a mistake of the user, 128 + the signal that ended a training (130 for
    Ctrl-C), 1 for a fault of ours."""
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            _dispatch(words)
        if sys.stdout is not None:  # closed before the start, as by >&-
            sys.stdout.flush()
    except UserError as error:
        _say(" ".join(str(error).split()))
        return 2
    except KeyboardInterrupt as error:
        again = f"`{shlex.join(['peerage', *words])}` goes on" if words[:1] == ["sweep"] else ""
        otherwise = GOES_ON if words[:1] in (["train"], ["resume"]) else again
        _say("; ".join(filter(None, ["interrupted", getattr(error, "then", otherwise)])))
        return 130
    except BrokenPipeError:  # `peerage presets | head`
        return 0
    except MemoryError:
        _say(NO_MEMORY)
        return 2
    except OSError as error:  # a full disk, a folder that may not be read, a name that is too long
        _say(" ".join(str(error).split()))
        return 2
    except SystemExit as stop:  # argparse after --help; a training that was told to end
        if isinstance(stop.code, int) and stop.code > 128 and words[:1] != ["sweep"]:  # which has said so itself
            _say("; ".join(filter(None, [f"ended by a signal ({stop.code - 128})", getattr(stop, "then", "")])))
        if stop.code is not None and not isinstance(stop.code, int):
            _say(" ".join(str(stop.code).split()))
            return 1
        return int(stop.code or 0)
    except Exception as error:
        if os.environ.get("PEERAGE_TRACEBACK"):
            raise
        if isinstance(error, ImportError) and "failed to map segment" in str(error):
            _say(NO_MEMORY)
            return 2
        what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        _say(f"a fault of Peerage: {what} (with PEERAGE_TRACEBACK=1 it says where)")
        return 1
    finally:
        leave_stdout()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
