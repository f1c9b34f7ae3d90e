"""docs/command-line.md, from the commands themselves: `make docs` writes it, and a test compares."""

from __future__ import annotations

import argparse

from peerage.cli import COMMANDS
from peerage.config.flags import Parser

INTRODUCTION = """# The command line

<!-- written by `make docs`; the texts stand in peerage/config/tree.py and peerage/commands/ -->

```
peerage COMMAND ...
```

A flag overrides the configuration that `--config` names: a YAML file, a preset, or a run folder. The YAML is
the tree of `peerage/config/tree.py` and strict: an unknown key, a key given twice or a wrong type is an error, and
`1e-3` is a number. `--env-args` adds to the arguments in the configuration; `--n-epochs` beats its
`total_timesteps`. A field that may be unset is unset by `none`, as in `--max-peer-epochs none`.

A mistake is answered with one line, `peerage: ...`, and exit status 2, before anything is written; an
interrupted run ends with status 128 + the signal's number (130 after Ctrl-C), and the line
says what goes on with it. Flags and commands of coming parts are refused, never ignored.
"""


def page() -> str:
    parts = [INTRODUCTION]
    for name, command in COMMANDS.items():
        parser = command.parser(name)
        usage = f"peerage {name} {command.usage}".rstrip()
        parts.append(f"\n## {name}\n\n{command.summary}\n\n```\n{usage}\n```\n")
        parts.extend(_table(title, actions) for title, actions in _groups(parser).items())
        if command.examples:
            parts.append("\n```\n" + "\n".join(command.examples.splitlines()[1:]) + "\n```\n")
    return "".join(parts)


def _groups(parser: Parser) -> dict[str, list[argparse.Action]]:
    """Title -> flags; those without a group of their own, and the positional ones, under no title."""
    groups: dict[str, list[argparse.Action]] = {}
    for group in parser._action_groups:
        title = "" if group.title in ("options", "positional arguments") else str(group.title)
        if actions := [action for action in group._group_actions if action.dest != "help"]:
            groups.setdefault(title, []).extend(actions)
    return groups


def _table(title: str, actions: list[argparse.Action]) -> str:
    lines = [f"\n### {title.capitalize()}\n" if title else "", "| flag | meaning |", "| --- | --- |"]
    for action in actions:
        words = ", ".join(action.option_strings) or str(action.metavar)
        if action.option_strings and action.metavar:
            words += f" {action.metavar}" + (" ..." if action.nargs in ("+", "*") else "")
        meaning = (action.help or "").replace("%%", "%").replace("|", "\\|").replace("*", "\\*")
        words = words.replace("|", "\\|")
        lines.append(f"| `{words}` | {meaning} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
