"""Imports of Peerage's own modules: at the top of the file, downwards through the layers, without circles, and light.

The source is read with `ast`, so that imports inside functions and under TYPE_CHECKING count too.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

import peerage
from peerage import api, session
from peerage.cli import COMMANDS
from peerage.loading import load_function
from peerage.runs.folder import HEADER
from peerage.sweeps import plan
from peerage.sweeps.worker import WORK

ROOT = Path(__file__).parent.parent

LAYERS = """
    version  errors  text  loading  append_buffer  processor
    extras
    config
    nets  envs
    runs
    offline
    learners
    interop
    trust
    sharing
    training
    statistics
    evaluation
    reports
    session
    api
    sweeps  app
    commands
    cli
    manual  __main__
"""
"""Modules and packages, low to high. A module may import from its own package and from the lines above its own."""

KNOWN: dict[tuple[str, str], str] = {}
"""Imports that break a rule below, and why they are still there. An entry that is no longer needed fails the test."""


class Import(NamedTuple):
    """One import statement of one of our own modules by another. Names are without `peerage.`."""

    module: str
    imported: str
    inside: bool
    """Inside a function."""

    def __str__(self) -> str:
        return f"{self.module} imports {self.imported}"


def sources() -> dict[str, str]:
    """Module -> source; the package itself is `peerage`, a subpackage has its own name."""
    found = {}
    for path in sorted((ROOT / "peerage").rglob("*.py")):
        parts = path.relative_to(ROOT / "peerage").with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "peerage"
        found[name] = path.read_text(encoding="utf-8")
    return found


def imports(modules: Mapping[str, str]) -> list[Import]:
    """Every import of one module by another, wherever in the file it is."""
    return [found for name, source in modules.items() for found in _imports(name, ast.parse(source), modules, False)]


def _imports(module: str, node: ast.AST, modules: Mapping[str, str], inside: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        names: list[str] = []
        if isinstance(child, ast.ImportFrom):
            assert not child.level, f"{module} has a relative import"
            names = [f"{child.module}.{alias.name}" for alias in child.names]
        elif isinstance(child, ast.Import):
            names = [alias.name for alias in child.names]
        for name in names:
            package, _, rest = name.partition(".")
            if package == "peerage":
                while rest and rest not in modules:  # a function or class: the module that holds it
                    rest = rest.rpartition(".")[0]
                yield Import(module, rest or "peerage", inside)
        function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from _imports(module, child, modules, inside or function)


def is_upward(found: Import) -> bool:
    """Whether an import leaves its package in another direction than down."""
    layer = {name: place for place, line in enumerate(LAYERS.strip().splitlines()) for name in line.split()}
    package, imported = (name.partition(".")[0] for name in found[:2])
    if package == "peerage":  # its names are imported on first use: `test_the_package_names_its_modules`
        return False
    return imported == "peerage" or (package != imported and layer[imported] >= layer[package])


def circles(edges: set[tuple[str, str]]) -> list[set[str]]:
    """Groups of modules that import each other, directly or through others."""
    after: dict[str, set[str]] = {}
    for module, imported in edges:
        after.setdefault(module, set()).add(imported)

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            for name in after.get(todo.pop(), set()) - seen:
                seen.add(name)
                todo.append(name)
        return seen

    reach = {name: reached(name) for name in after}
    found: list[set[str]] = []
    for name in after:
        if name in reach[name] and not any(name in circle for circle in found):
            found.append({other for other in reach[name] if name in reach.get(other, ())})
    return found


def test_every_module_has_a_layer() -> None:
    packages = {name.partition(".")[0] for name in sources()} - {"peerage"}
    assert sorted(packages) == sorted(LAYERS.split())


def test_imports_are_at_the_top() -> None:
    inside = [found for found in imports(sources()) if found.inside and found[:2] not in KNOWN]
    assert not inside, "inside a function: " + "; ".join(map(str, inside))


def test_imports_go_downwards() -> None:
    upward = [found for found in imports(sources()) if is_upward(found) and found[:2] not in KNOWN]
    assert not upward, "; ".join(map(str, upward))


def test_there_are_no_import_cycles() -> None:
    """Of explicit imports, those inside functions and under TYPE_CHECKING included."""
    found = circles({found[:2] for found in imports(sources())} - KNOWN.keys())
    assert not found, "; ".join(", ".join(sorted(circle)) for circle in found)


def test_known_violations_are_needed() -> None:
    everything = imports(sources())
    breaking = {found[:2] for found in everything if found.inside or is_upward(found)}
    for edge in KNOWN:
        others = {found[:2] for found in everything} - (KNOWN.keys() - {edge})
        in_circle = edge in others and any(set(edge) <= circle for circle in circles(others))
        assert edge in breaking or in_circle, f"KNOWN: {edge[0]} -> {edge[1]} breaks no rule any more, remove it"


def test_violations_are_found() -> None:
    modules = {
        "errors": "def f():\n    from peerage.config.file import load",
        "config": "",
        "config.file": "if TYPE_CHECKING:\n    from peerage.config.check import check",
        "config.check": "import peerage.config.file\nfrom peerage import runs, errors, __version__",
        "runs": "from peerage.config import Config",
        "peerage": "",
    }
    found = imports(modules)
    assert [str(each) for each in found if each.inside] == ["errors imports config.file"]
    assert [str(each) for each in found if is_upward(each)] == [
        "errors imports config.file",
        "config.check imports runs",
        "config.check imports peerage",
    ]
    assert {"config.file", "config.check"} <= circles({each[:2] for each in found})[0]
    assert not circles({("a", "b"), ("b", "c"), ("a", "c")})


# --- what is imported when ------------------------------------------------------------------------


def test_the_package_names_its_modules() -> None:
    """What type checkers see under TYPE_CHECKING is what `peerage.__getattr__` imports."""
    tree = ast.parse(sources()["peerage"])
    block = next(node for node in tree.body if isinstance(node, ast.If))
    declared = {alias.name: node.module for node in block.body for alias in node.names}  # type: ignore[attr-defined]
    assert declared == peerage._MODULE_OF
    assert {*declared, "__version__"} == set(peerage.__all__)
    assert all(getattr(peerage, name) is not None for name in peerage.__all__)


DEFERRED = [
    f"{call.__module__}:{call.__name__}"
    for module in (api, session, plan)
    for call in vars(module).values()
    if getattr(call, "is_deferred", False)
]


@pytest.mark.parametrize("name", [WORK, *DEFERRED, *(command.action for command in COMMANDS.values())])
def test_functions_that_are_loaded_by_name_exist(name: str) -> None:
    assert callable(load_function(name))


HEAVY = ("torch", "pandas", "matplotlib", "scipy", "gymnasium", "numpy", "rich", "streamlit", "plotly")
LIGHT = [
    "import peerage",
    "import peerage.runs",
    "import peerage.sweeps.worker",
    "import peerage.learners.defaults",
    "import peerage; peerage.load",
    "from peerage.cli import main; main(['--help'])",
    "from peerage.cli import main; main(['--version'])",
    "from peerage.cli import main; main(['train', '--help'])",
    "from peerage.cli import main; assert main(['train', '--gamma', '7']) == 2",
    "from peerage.cli import main; main(['presets'])",
    "from peerage.cli import main; assert main(['app', 'no such folder']) == 2",
]


@pytest.mark.parametrize(
    "words", [["sweep"], ["sweep", "quick", "--dry-run"], ["envs"], ["presets", "--json"], ["data"]]
)
def test_commands_that_only_print_import_no_torch(words: list[str]) -> None:
    code = f"import sys; from peerage.cli import main; assert main({words}) == 0; "
    code += "sys.exit(str([name for name in ('torch', 'pandas', 'scipy', 'matplotlib') if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "[]"


REFUSED = [
    ("--ent-coef abc", "--ent-coef must be a number"),
    ("--n-heads 3 --d-model 32", "--n-heads 3 does not divide"),
    ("--n-envs 0", "--n-envs must be in"),
    ("--config no-such-preset", "neither a file nor a preset"),
    ("--env NoSuchTask-v0", "unknown environment"),
    ("--n-heads 2", "no effect without --net attention"),
    ("--sharing none --temperature 3", "--temperature has no effect"),
    ("--algorithm sac", "sac does not fit"),
    ("--algorithm ppo --net attention --n-queries 3", "--n-queries has no effect without --tokens set"),
    ("--algorithm ppo --batch-size 7", "--batch-size 7 does not divide"),
    ("--algorithm ppo --ent-coef auto", "ppo needs a number"),
    ("--algorithm ppo --n-envs 4 --n-peers 2 --sharing advice", "--n-envs 4 needs --sharing none"),
    ("--algorithm ppo --n-envs 16 --total-timesteps 100", "--total-timesteps 100 is not a multiple"),
    ("--algorithm ppo --n-peers 2 --exchange average --exchange-freq 3", "--exchange-freq 3 must be a multiple"),
    ("--target-return 5", "--target-return is for"),
    ("--clip-targets", "but this is dqn"),
    ("--total-timesteps 10", "no member would learn"),
    ("--n-peers 1 --only-follow-others", "--only-follow-others needs another adviser"),
    ("--exp-name taken", "taken exists"),
]
"""Words after `peerage train --env CartPole-v1`, and a part of the error."""


def test_settings_that_do_not_fit_are_refused_without_torch(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "config.yaml").write_text(HEADER + "env: CartPole-v1\nlearner:\n  algorithm: [dqn]\n")
    base = ["train", "--env", "CartPole-v1", "--log-dir", str(tmp_path)]
    code = f"""
import sys
from peerage.cli import main
for words in {[words for words, _ in REFUSED]}:
    assert main({base} + words.split()) == 2, words
    assert "torch" not in sys.modules, words
for command in ("evaluate", "video", "watch"):
    assert main([command, {str(tmp_path / "taken")!r}, "--target-return", "5"]) == 2
    assert "torch" not in sys.modules, command
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    targets = [("", "--target-return is for dt, ddt and rvs, but this is dqn")] * 3
    parts = [part for _, part in [*REFUSED, *targets]]
    assert [line for line, part in zip(done.stderr.splitlines(), parts, strict=True) if part not in line] == []
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_mistakes_of_collect_are_refused_without_torch(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    code = """
import sys
from peerage.cli import main
for words in ("expert --out new", "noise:0.1:expert --out new", "random --out ./taken"):
    assert main(["collect", *words.split(), "--env", "CartPole-v1"]) == 2
    assert "torch" not in sys.modules, words
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ["there is no expert for" in line for line in done.stderr.splitlines()] == [True, True, False]
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_training_imports_what_the_report_needs_after_its_last_step(tmp_path: Path) -> None:
    """Without a report nothing of it is imported at all; `peerage.load` does not import torch."""
    code = f"""
import sys, peerage
from peerage import session
heavy = "pandas", "scipy", "matplotlib", "torch._dynamo"
session.write_report = lambda folder: print([name for name in heavy if name in sys.modules])
peerage.train("Room-v3", n_peers=2, total_timesteps=20, n_eval_episodes=1, log_dir={str(tmp_path)!r}, exp_name="run",
              verbose=0, learning_starts=4)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
    code = f"""
import sys, peerage
assert peerage.load({str(tmp_path / "run")!r}).config.n_peers == 2
sys.exit(str([name for name in {HEAVY} if name in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize("code", LIGHT)
def test_imports_are_light(code: str) -> None:
    code = f"import sys; {code}; sys.exit(str([name for name in {HEAVY} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "[]"
