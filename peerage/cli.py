"""The console script `peerage`. A command's implementation is imported only when it runs.

An error that the user can correct is printed as one line on stderr, `peerage: ...`, with exit status 2.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
import warnings
from typing import Any

from peerage.commands.app import APP
from peerage.commands.base import Command
from peerage.commands.console import discard_unwritten_output
from peerage.commands.data import COLLECT, DATA
from peerage.commands.lists import ENVS, PRESETS
from peerage.commands.runs import ATTENTION, COMPARE, EVALUATE, EXPORT, REPORT, VIDEO, WATCH
from peerage.commands.sweep import SWEEP
from peerage.commands.train import RESUME, TRAIN
from peerage.errors import UserError, nearest
from peerage.text import one_line
from peerage.version import __version__

OUT_OF_MEMORY = (
    "there is not enough memory: close other programs, or raise the memory limit (`ulimit -v`, or of the container)"
)
ANSI_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
"""Gymnasium colours its warnings."""
HOW_TO_CONTINUE = "`peerage resume` with the run's folder continues a training"
COMMANDS: dict[str, Command] = {
    "train": TRAIN, "resume": RESUME, "sweep": SWEEP, "evaluate": EVALUATE, "video": VIDEO, "watch": WATCH,
    "report": REPORT, "compare": COMPARE, "attention": ATTENTION, "export": EXPORT, "collect": COLLECT,
    "data": DATA, "app": APP, "envs": ENVS, "presets": PRESETS,
}  # fmt: skip


def manual() -> str:
    """The text of `peerage --help`."""
    commands = "\n".join(f"  {name:9} {command.summary}" for name, command in COMMANDS.items())
    return f"""usage: peerage COMMAND ...

Train groups of reinforcement-learning agents that learn from each other.

COMMANDS
{commands}

  --help, -h     show this message and exit; `peerage COMMAND --help` explains a command and its flags
  --version      print the version and exit

EXAMPLES
  peerage train --env LunarLander-v3 --n-peers 4 --total-timesteps 100000
  peerage train --config peer-hopper --replicas 3
  peerage presets
  peerage evaluate experiments/my-run --episodes 20

An invalid command line or file prints a one-line message and exits with status 2.
"""


def _dispatch(words: list[str]) -> None:
    if not words or words[0] in ("--help", "-h", "help"):
        print(manual(), end="")
        return
    name = words[0]
    if name == "--version":
        print(f"peerage {__version__}")
        return
    if name not in COMMANDS:
        kind = "flag" if name.startswith("-") else "command"
        known = [*COMMANDS, "--help", "--version"]
        raise UserError(f"unknown {kind} {name[:60]!r}{nearest(name, known)}; see `peerage --help`")
    COMMANDS[name].run(name, words[1:])


def _print_error(line: str) -> None:
    """Print a line on stderr, which may be closed; control characters are escaped, so that none reaches the
    terminal."""
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)[:1500]
    with contextlib.suppress(OSError, ValueError):
        print(f"peerage: {line}", file=sys.stderr)


def _print_warning(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    """Replaces `warnings.showwarning`: one line without the place in the code, and none for deprecations."""
    if not issubclass(category, DeprecationWarning | PendingDeprecationWarning | ResourceWarning):
        _print_error(one_line(ANSI_COLOUR.sub("", str(message))))


def main(argv: list[str] | None = None) -> int:
    """Run one command and return the exit status: 0; 2 for an error of the user; 128 + the number of the signal that
    ended a training (130 for Ctrl-C); 1 for a bug in Peerage."""
    words = sys.argv[1:] if argv is None else list(argv)
    trains, sweeps = words[:1] in (["train"], ["resume"]), words[:1] == ["sweep"]
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _print_warning
            _dispatch(words)
        if sys.stdout is not None:  # None if the process was started with stdout closed (>&-)
            sys.stdout.flush()
    except UserError as error:
        _print_error(one_line(error))
        return 2
    except KeyboardInterrupt as error:
        again = f"`{shlex.join(['peerage', *words])}` continues" if sweeps else HOW_TO_CONTINUE if trains else ""
        _print_error("; ".join(filter(None, ["interrupted", getattr(error, "then", again)])))
        return 130
    except BrokenPipeError:  # `peerage presets | head`
        return 0
    except MemoryError:
        _print_error(OUT_OF_MEMORY)
        return 2
    except OSError as error:  # such as a full disk, a folder without read permission, or a name that is too long
        _print_error(one_line(error))
        return 2
    except SystemExit as stop:  # from argparse after --help, or from a training that a signal ended
        if isinstance(stop.code, int) and stop.code > 128 and not sweeps:  # a sweep has printed its own message
            ended = f"ended by a signal ({stop.code - 128})"
            _print_error("; ".join(filter(None, [ended, getattr(stop, "then", "")])))
        if stop.code is not None and not isinstance(stop.code, int):
            _print_error(one_line(stop.code))
            return 1
        return int(stop.code or 0)
    except Exception as error:
        if os.environ.get("PEERAGE_TRACEBACK"):
            raise
        if isinstance(error, ImportError) and "failed to map segment" in str(error):
            _print_error(OUT_OF_MEMORY)
            return 2
        what = one_line(f"{type(error).__name__}: {error}")[:300]
        _print_error(f"a bug in Peerage: {what} (PEERAGE_TRACEBACK=1 shows the traceback)")
        return 1
    finally:
        discard_unwritten_output()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
