"""Malicious words and configurations: every answer is a one-line message, and no existing file is lost."""

from __future__ import annotations

import os
import socket

import pytest
import yaml
from hostile import (  # noqa: F401
    COMMANDS_OF_A_RUN,
    KINDS,
    NUMBERS,
    TEXTS,
    Place,
    ask,
    examples,
    guarded,
    mutated,
    snapshot,
    some_runs,
    use,
)
from hypothesis import given
from hypothesis import strategies as st

from peerage.cli import COMMANDS
from peerage.config.flags import train_flags
from peerage.config.presets import preset, preset_names
from peerage.runs.folder import HEADER

pytestmark = pytest.mark.long

# --- configurations ---------------------------------------------------------------------------------------------

LAUGHS = "a: &a [x, x]\n" + "".join(f"{y}: &{y} [{', '.join([f'*{x}'] * 9)}]\n" for x, y in zip("abcdefgh", "bcdefghi"))
SNIPPETS = (
    "env: !!python/object/apply:os.system ['touch owned']\n",
    "!!python/object/apply:os.system ['touch owned']\n",
    "env: !<tag:yaml.org,2002:python/name:os.system> x\n",
    "seed: !!int 'x'\n", "seed: !!timestamp x\n", "seed: 2024-13-45\n", "seed: 1:30:99999999\n",
    LAUGHS, "a: &a\n  b: *a\n", "env: Room-v6\nenv: Room-v6\n", "? [a]\n: b\n", "? {a: b}\n: c\n", "<<: {env: x}\n",
    "---\n---\n", "...\n", "%YAML 9.9\n---\n", "%TAG ! tag:evil,2000:\n---\nenv: !x y\n", "\t", "&", "*", "!", "\0",
    "\ufeff", "\x85", "\u2028", "# \x07\n", "'", '"', '"\\ud800"', '"\\x00"', "|", ">", "-", "- - - -", "env: |2\n x\n",
    "[" * 30_000, "{a: " * 9_000, "- " * 9_000, "".join(f"{' ' * k}a:\n" for k in range(900)), "x" * 10_000_000,
    "env: '" + "x" * 900_000 + "'\n", "seed: " + "9" * 9_000 + "\n", "seed: 1e999999999999\n", "seed: 0x10\n",
    "env_args: {x: " + "[" * 120 + "]" * 120 + "}\n",
    "env_args: {change: {reward_scale: " + "[" * 90 + "]" * 90 + "}}\n",
    "advisers: [" + "random, " * 5_000 + "]\n", "learner: {net_arch: [" + "1," * 3_000 + "]}\n",
    "learner: {net_arch: [[1000000000, 1000000000]]}\n", "learner: {batch_size: 4000000000}\n",
    "learner: {buffer_size: 4000000000}\ntotal_timesteps: 4000000000\n", "n_epochs: 9223372036854775807\n",
    "advice: {trust_batch_size: 1000000000, trust_buffer_size: 1000000000}\ntotal_timesteps: 4000000000\n",
    "advice: {trust: in-context}\ncontext: {context_history: 4000000000, context_batch_size: 4000000000}\n",
    "advice: {trust: hybrid}\nattention: {attention_history: 4000000000, attention_batch_size: 4000000000}\n"
    "total_timesteps: 4000000000\n",
)  # fmt: skip


@st.composite
def yaml_files(draw, sources: tuple[str, ...]) -> bytes:
    """A configuration in which something is wrong, most of the time."""
    source = draw(st.sampled_from(sources))
    how = draw(st.sampled_from(("tree", "tree", "tree", "snippet", "snippet", "bytes", "encoding")))
    if how == "tree":
        source = HEADER + yaml.safe_dump(draw(mutated(yaml.safe_load(source))), allow_unicode=draw(st.booleans()))
    if how == "snippet":
        snippet, lines = draw(st.sampled_from(SNIPPETS)), source.splitlines(keepends=True)
        at = draw(st.sampled_from((0, 0, len(lines) // 2, len(lines))))
        source = snippet if draw(st.booleans()) else "".join([*lines[:at], snippet, *lines[at:]])
    encoding = draw(st.sampled_from(("utf-16", "utf-32", "utf-8-sig"))) if how == "encoding" else "utf-8"
    data = bytearray(source.encode(encoding, errors="surrogatepass"))
    if how == "bytes":
        for _ in range(draw(st.integers(1, 4))):
            at = draw(st.integers(0, len(data) - 1))
            data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data)


PRESETS = tuple(HEADER + yaml.safe_dump(preset(name)) for name in preset_names() if "room" in name.lower())[:5]


@examples(80)
@given(data=st.data())
def test_a_configuration_to_train_with(runs, data):
    sources = (*((runs / kind / "config.yaml").read_text() for kind in KINDS), *PRESETS)
    with Place(runs) as place:
        (place.path / "mine.yaml").write_bytes(data.draw(yaml_files(sources)))
        assert place.ask("train", "--config", "mine.yaml", *place.nowhere).status == 2


@examples(60)
@given(kind=st.sampled_from(KINDS), command=st.sampled_from(COMMANDS_OF_A_RUN), data=st.data())
def test_the_configuration_of_a_run(runs, kind, command, data):
    with Place(runs, kind) as place:
        path = place.run / "config.yaml"
        path.write_bytes(data.draw(yaml_files((path.read_text(),))))
        use(place, command)


@pytest.mark.parametrize("command", COMMANDS_OF_A_RUN[1:], ids=lambda words: f"{words[0]}{words[-1]}")
def test_a_run_that_brings_code(runs, command):
    """Commands inside a run folder from an untrusted source must not execute code from it."""
    with Place(runs) as place:
        for name in ("payload.py", "package/__init__.py"):
            path = place.run / name
            path.parent.mkdir(exist_ok=True)
            path.write_text("open('owned', 'w')\n")
        text = (place.run / "config.yaml").read_text()
        for env in ("payload:Room-v6", "package:Room-v6", "package.part:Room-v6"):
            (place.run / "config.yaml").write_text(text.replace("env: Room-v6", f"env: {env}"))
            words = [word.format(".") for word in command] + (place.nowhere if command[0] == "train" else [])
            ask(*words, folder=place.run)
            assert not (place.run / "owned").exists(), env


@examples(4)
@given(kind=st.sampled_from(KINDS), data=st.data())
def test_the_report_of_a_run_with_another_configuration(runs, kind, data):
    with Place(runs, kind) as place:
        path = place.run / "config.yaml"
        path.write_bytes(data.draw(yaml_files((path.read_text(),))))
        place.ask("report", "experiments/run", may=(place.run / "figures", place.run / "report.html"))


# --- the command line -------------------------------------------------------------------------------------------


def hostile_paths(place: Place) -> list[str]:
    """Paths that are not what they should be."""
    there = place.path / "paths"
    there.mkdir(exist_ok=True)
    os.mkfifo(there / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(there / "socket"))
    (there / "loop").symlink_to(there / "loop")
    (there / "dangling").symlink_to(place.path / "made")
    (there / "link").symlink_to(place.outside)
    (there / "to-run").symlink_to(place.run)
    (there / "empty").mkdir()
    (there / "file").write_bytes(b"\x80\x02}q\x00.")
    for name in ("fifo", "socket", "empty", "file", "link", "loop"):  # runs with an unusual config.yaml
        (there / f"with-{name}").mkdir()
        (there / f"with-{name}" / "config.yaml").symlink_to(there / name)
    for path in place.zips.iterdir():
        os.link(path, there / path.name)
    names = [str(path) for path in sorted(there.iterdir())]
    return [*names, *(f"{name}:0" for name in names), *(f"{name}/" for name in names), "/dev/null", "/dev/zero",
            "/dev/zero:1", "/proc/self/mem", "/", ".", "..", "", "\0", "x" * 5_000, "/".join("x" * 2_000),
            "a\ud800b", "experiments/run", "experiments/run:7", "experiments/run:²", "experiments/run/config.yaml",
            "experiments/run/checkpoints", "outside/precious"]  # fmt: skip


FLAGS = tuple(flag.option for flag in train_flags())
SWITCHES = {flag.option for flag in train_flags() if flag.is_switch}
SMALL_COUNTS = {"--n-peers", "--replicas"}
"""A large group is no mistake, but building it takes its time."""
numbers = st.sampled_from(tuple(map(str, NUMBERS))) | st.integers(-3, 70).map(str)
words = st.sampled_from(TEXTS) | numbers | st.text(max_size=9)


def on_the_command_line(word: str) -> str:
    """Words that a shell can pass: only surrogates that represent bytes."""
    return word.replace("\ud800", "\udcff").replace("\0", "\u2400")


@st.composite
def flags_and_words(draw, options: tuple[str, ...], words: st.SearchStrategy[str]) -> list[str]:
    said: list[str] = []
    for _ in range(draw(st.integers(1, 4))):
        option = draw(st.sampled_from(options))
        if option in SWITCHES and draw(st.booleans()):
            said.append(option)
            continue
        if option in SMALL_COUNTS:
            said += [option, draw(st.sampled_from(("0", "3", "65", "99999999999", "1e400", "２", "x", "-1")))]
            continue
        count = draw(st.sampled_from((1, 1, 1, 1, 1, 1, 1, 2, 3, 0, 1_000)))
        said += [option, *([draw(words)] * count if count > 3 else [draw(words) for _ in range(count)])]
        if draw(st.integers(0, 9)) == 0:
            said[-1:] = [f"{option}={said[-1]}"]
    return said


@examples(110)
@given(env=st.sampled_from(("Room-v6", "Pendulum-v1")), data=st.data())
def test_flags_of_train(runs, env, data):
    with Place(runs) as place:
        paths = st.sampled_from(hostile_paths(place))
        if data.draw(st.booleans()):  # a value of a flag that is a path
            options: tuple[str, ...] = ("--config", "--load-paths", "--advisers", "--env-args", "--env")
            source = paths | paths.map(lambda path: f"checkpoint:{path}") | paths.map(lambda path: f"change={path}")
        else:
            options, source = FLAGS, words
        said = data.draw(flags_and_words(options, source))
        place.ask("train", "--env", env, *map(on_the_command_line, said), *place.nowhere)




PLACES = ("new", "new/er", "experiments", "outside", "outside/precious", "outside/precious/x", "outside/checkpoints",
          "experiments/run", "paths/loop", "paths/dangling", "paths/dangling/x", "paths/link", "paths/fifo",
          "paths/socket", "/dev/null", "/dev/full", "/proc/self/mem", "/proc/nowhere", "x" * 300, "x/" * 3000, "\udcff",
          "a\nb", " ")  # fmt: skip
GOOD_NAMES = ("new", "run", "checkpoints", "precious", "metrics.csv", "made", "é", "CON", ".hidden", "a b",
              "$(touch owned)")  # fmt: skip
BAD_NAMES = ("../run", "../outside", "/etc/x", "a/b", "..", ".", "", "-x", "x" * 300, "é" * 101, "\udcff", "a\nb",
             "\x07", "x.", " x")  # fmt: skip


@examples(60)
@given(place_of=st.sampled_from(PLACES), name=st.sampled_from((*GOOD_NAMES, *BAD_NAMES)), overwrite=st.booleans())
def test_where_a_run_goes(runs, place_of, name, overwrite):
    """Into a new folder below --log-dir, or in place of a run if that was asked for; and nowhere else."""
    with Place(runs) as place:
        hostile_paths(place)
        target = place.path / place_of / name
        may = (target,) if overwrite and place_of == "experiments" and name == "run" else ()
        first = place_of.split("/")[0]
        below = (place.path / first, target, place.path / "made", place.outside / name)
        new = [path for path in below if first and not os.path.lexists(path)]
        short = ["--env", "Room-v6", "--n-peers", "1", "--total-timesteps", "5", "--eval-freq", "0", "--verbose", "0"]
        short += ["--learning-starts", "0"]
        where = ["--log-dir", place_of, f"--exp-name={name}", *(["--overwrite"] if overwrite else [])]
        answer = place.ask("train", *short, *where, may=(*may, *new))
        assert answer.refused or name in GOOD_NAMES, answer
        if answer.refused:
            return
        assert (target / "DONE").is_file()


ONE_LINE = {"train", "sweep"}
"""Commands that would train; they have separate tests."""


@examples(70)
@given(command=st.sampled_from(sorted(COMMANDS.keys() - ONE_LINE)), data=st.data())
def test_words_of_the_other_commands(runs, command, data):
    """On paths that are no runs, and on a run with flags of all kinds (but no endless evaluation)."""
    options = [o for o in COMMANDS[command].parser(command)._option_string_actions if o not in ("-h", "--help")]
    with Place(runs) as place:
        paths = st.sampled_from([path for path in hostile_paths(place) if not path.rstrip("/").endswith("run")])
        source = words | paths
        said = data.draw(flags_and_words(tuple(options), source)) if options and data.draw(st.booleans()) else []
        endless = "--episodes" in said or command in ("report", "compare")
        run = data.draw(source) if endless or data.draw(st.booleans()) else "experiments/run"
        may = (place.run,) if command == "resume" else (place.run / "export", place.path)
        answer = place.ask(command, *map(on_the_command_line, [run, *said]), may=may)
        after = snapshot(place.path)
        assert command == "resume" or {p: after.get(p) for p in place.before} == place.before, (answer, run, said)


@pytest.mark.parametrize("said", [[], ["--"], ["", ""], ["train", "--"], ["-h", "x"], ["１２"], ["x" * 99_999]])
def test_words_that_are_not_a_command(runs, said):
    with Place(runs) as place:
        place.ask(*said)
