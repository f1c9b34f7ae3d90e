"""Common parts of the commands: their declaration, and the loading of their implementation.

The modules of this package declare the commands and import nothing heavy, so that `--help` and a mistake on the command
line are answered at once. `peerage.commands.actions` holds the implementations, which import torch, pandas and so on at
the top; `Command.run` loads one by its name.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from peerage.config.flags import Parser
from peerage.errors import UserError
from peerage.loading import load_function, not_a_run


def no_check(args: argparse.Namespace) -> None:
    """The check of a command whose parser checks everything."""


@dataclass(frozen=True)
class Command:
    """A subcommand of `peerage`."""

    usage: str
    summary: str
    add_arguments: Callable[[Parser], None]
    action: str
    """`module:function` of the implementation, `function(args, command_line)`; imported when the command runs."""
    examples: str = ""
    check: Callable[[argparse.Namespace], None] = no_check
    """Raises UserError for arguments that can be refused before the implementation is imported."""

    def parser(self, name: str) -> Parser:
        parser = Parser(
            prog=f"peerage {name}",
            usage=f"peerage {name} {self.usage}".rstrip(),
            description=self.summary,
            epilog=self.examples,
        )
        self.add_arguments(parser)
        return parser

    def run(self, name: str, words: Sequence[str]) -> None:
        """Run the command with the words that follow its name on the command line."""
        args = self.parser(name).parse(list(words))
        self.check(args)
        load_function(self.action)(args, ["peerage", name, *words])


def add_run(parser: Parser, nargs: str | None = None, hugging_face: bool = False) -> None:
    """The argument RUN, or several of them. With `hugging_face`, it may also be a folder with such a model."""
    about = "a run folder, such as experiments/my-run"
    if hugging_face:
        about += ", or a folder of Hugging Face's DecisionTransformerModel"
    parser.add_argument("run", metavar="RUN|FOLDER" if hugging_face else "RUN", nargs=nargs, help=about)


def add_json(parser: Parser, about: str = "print JSON instead of a table") -> None:
    """The flag --json."""
    parser.add_argument("--json", action="store_true", help=about)


def check_run(args: argparse.Namespace) -> None:
    """UserError unless every RUN is a run folder."""
    for name in [args.run] if isinstance(args.run, str) else args.run:
        if not (Path(name) / "config.yaml").is_file():
            raise UserError(not_a_run(name))


def number(low: int) -> Callable[[str], int]:
    """The type of an argument: a whole number of at least `low`."""

    def whole_number(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) < 2**63:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {low}, got {text[:40]!r}")
        return int(text)

    return whole_number
