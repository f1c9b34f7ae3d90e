"""Check that two checkouts of Peerage compute the same numbers.

    python -m benchmarks.golden record --checkout DIR --out FILE.json    train the runs of DIR and write their hashes
    python -m benchmarks.golden compare DIR_A DIR_B                      train the runs of both and compare them
    python -m benchmarks.golden compare DIR_A DIR_B --tolerance 1e-6     accept small relative differences
    python -m benchmarks.golden compare DIR_A DIR_B --only room-probes   compare one run and the runs that it needs

The runs in `RUNS` are small. Together they cover every learner, trust, choice rule and kind of adviser. Each run is
trained by `python -m peerage train` in a separate process, on one CPU thread, so the two checkouts may differ in their
internals. Only the documented interface is used: the command line, the run folder, `peerage.load` and `run.policy`.

What is compared:

- metrics.csv, evaluations.csv and advice.csv. Rows are matched by their keys, so the order of rows does not matter.
- The actions of every member's policy on 256 fixed random observations.
- The tensors of the last checkpoint: network parameters, optimizer state and the state of trust. Tensors with the same
  key and shape must be equal. If only the keys or the shapes differ, this is reported but is not a difference.

Columns and metric names that only B has are reported but are not a difference. The exit status is 1 if anything
differs.

Runs are kept in `--work DIR/<commit>` and used again. If a file in the package `peerage/` of a checkout is modified or
untracked, all its runs are trained again. The hashes are valid for one machine and one set of package versions.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
import os
import shlex
import shutil
import subprocess
import sys
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import yaml

KEYS = {
    "metrics.csv": ("step", "replica", "member", "name"),
    "evaluations.csv": ("step", "replica", "member", "episode"),
    "advice.csv": ("step", "replica", "asker", "adviser"),
}
"""The compared tables. The columns named here identify a row; a table has further columns with values."""
TIME_LIMIT = 600  # seconds per run
PACKAGES = ("torch", "numpy", "gymnasium", "mujoco")

COMMON = "--log-freq 100 --eval-freq 200 --n-eval-episodes 2 --checkpoint-freq 200 --keep-checkpoints 20"
COMMON += " --device cpu --threads 1 --verbose 0 --log-dir ."
DQN = "--net-arch 32,32 --batch-size 32 --buffer-size 300 --learning-starts 100 --target-update-interval 50"
BOX = "--net-arch 32,32 --batch-size 32 --buffer-size 250 --learning-starts 60"
TD = "--trust-buffer-size 100"  # less than the replay buffers hold
CONTEXT = "--context-length 20 --context-history 40 --context-batch-size 8"
ATTENTION = "--sequence-length 10 --attention-batch-size 8 --attention-history 200 --warmup-steps 300"


@dataclass(frozen=True)
class GoldenRun:
    """One run: its name and its flags of `peerage train`."""

    name: str
    flags: str = ""
    needs: str = ""
    """The run that must be trained before this one, because it is pretrained by it or asks it for advice."""
    resumes: bool = False
    """Copy the run in `needs`, remove the checkpoints of its second half, and resume the copy."""

    def command(self) -> list[str]:
        words = f"resume {self.name} --verbose 0" if self.resumes else f"train {self.flags} {COMMON}"
        named = [] if self.resumes else ["--exp-name", self.name]
        return ["-m", "peerage", *shlex.split(words), *named]


RUNS = [
    # Discrete actions: DQN
    GoldenRun("room-default", "--env Room-v6 --n-peers 3 --total-timesteps 600 --seed 1 --learning-starts 100"),
    GoldenRun("room-probes", f"--env Room-v21 --n-peers 2 --advisers expert adversary random --trust td --use-critic "
              f"--use-agent-values --no-use-advantage --replicas 2 --shuffle-advisers --total-timesteps 800 {TD} "
              f"{DQN}"),
    GoldenRun("room-paper", f"--env Room-v6 --n-peers 4 --choice paper --switch-ratio 2 --epoch-length 100 "
              f"--follow-across-episodes --temperature-decay 0.1 --total-timesteps 900 {TD} {DQN}"),
    GoldenRun("room-greedy", f"--env Room-v6 --n-peers 3 --choice greedy --epsilon 0.2 --only-follow-others "
              f"--max-peer-epochs 4 --epoch-length 100 --no-sample-with-noise --total-timesteps 700 {TD} {DQN}"),
    GoldenRun("room-uniform", f"--env Room-v6 --n-peers 2 --choice uniform --advisers random random expert "
              f"--replicas 3 --follow-steps 3 --total-timesteps 500 {DQN}"),
    GoldenRun("room-change", "--env Room-v6 --env-args goals=left change_at=330 'change={goals: right, reward_at: "
              "opposite}' --n-peers 2 --advisers turncoat convert --trust in-context --context-identity "
              f"--context-estimator transformer --replicas 2 --total-timesteps 600 {DQN} {CONTEXT}"),
    GoldenRun("room-regional", f"--env Room-v21 --n-peers 2 --advisers regional:a regional:b --trust in-context "
              f"--context-estimator kernel --no-context-critics --use-agent-values --total-timesteps 700 {TD} {DQN} "
              f"{CONTEXT}"),
    GoldenRun("room-byzantine", f"--env Room-v6 --n-peers 3 --byzantine-members 1:noise:0.3 2:sign-flip --advisers "
              f"colluding:a colluding:a noise:0.2:expert sign-flip:expert --perturb dropped_advice=0.3 "
              f"observation_noise=0.1 sticky_actions=0.1 --total-timesteps 500 {DQN} {CONTEXT}"),
    GoldenRun("room-none", f"--env Room-v6 --n-peers 2 --sharing none --replicas 3 --total-timesteps 600 {DQN}"),
    GoldenRun("room-single", f"--env Room-v21 --n-peers 1 --learning-rate 1e-3 --gamma 0.95 --total-timesteps 900 "
              f"{DQN}"),
    GoldenRun("room-pretrained", f"--env Room-v6 --n-peers 3 --load-paths room-none:1 none none --advisers "
              f"checkpoint:room-none:0 --trust td --learning-rate 1e-3 5e-4 2e-4 --total-timesteps 500 {TD} {DQN}",
              needs="room-none"),
    GoldenRun("room-hybrid-preset", "--config seed-hybrid-room-v6 --total-timesteps 400 --learning-starts 100 "
              "--warmup-steps 300"),
    GoldenRun("cartpole-critic", "--env CartPole-v1 --n-peers 2 --no-use-trust --use-critic --no-use-agent-values "
              "--advisers constant:1 --net-arch 32 16,16 --learning-starts 100 --perturb length=0.4..0.6 "
              "--total-timesteps 600"),
    GoldenRun("lander-phases", f"--env LunarLander-v3 --n-peers 2 --advisers expert --use-phase-aware "
              f"--wiring seed --no-lagged-rewards --total-timesteps 400 {DQN} {ATTENTION}"),
    GoldenRun("lander-preset", "--config quick-lunarlander --total-timesteps 400 --learning-starts 100"),
    # Box actions: SAC and TD3
    GoldenRun("pendulum-sac", f"--env Pendulum-v1 --n-peers 2 --ent-coef auto_0.1 --replicas 2 --advisers random "
              f"--total-timesteps 350 {BOX} {CONTEXT}"),
    GoldenRun("pendulum-sde", f"--env Pendulum-v1 --n-peers 2 --use-sde --ent-coef 0.1 --choice greedy --trust td "
              f"--advisers negated:constant:1 --total-timesteps 350 {TD} {BOX}"),
    GoldenRun("pendulum-td3", f"--env Pendulum-v1 --n-peers 2 --algorithm td3 --action-noise 0.2 --trust transformer "
              f"--advisers random constant --replicas 2 --total-timesteps 300 {BOX} {ATTENTION}"),
    GoldenRun("pendulum-mixed", f"--env Pendulum-v1 --n-peers 3 --algorithm sac td3 sac --trust hybrid "
              f"--advisers random --total-timesteps 400 {TD} {BOX} {ATTENTION}"),
    GoldenRun("pendulum-single", "--env Pendulum-v1 --n-peers 1 --total-timesteps 300 --learning-starts 100"),
    GoldenRun("hopper-phases", f"--env Hopper-v4 --n-peers 2 --trust hybrid --use-phase-aware --perturb "
              f"mass_scale=0.8..1.2 action_delay=1 --total-timesteps 350 {TD} {BOX} {ATTENTION}"),
    GoldenRun("hopper-mixed", f"--env Hopper-v4 --n-peers 2 --algorithm sac td3 --env-args change_at=200 "
              f"'change={{friction_scale: 0.5}}' --advisers checkpoint:hopper-phases:1 --byzantine-members 1:random "
              f"--total-timesteps 350 {BOX} {CONTEXT}", needs="hopper-phases"),
    # Resumed from the middle
    GoldenRun("room-resumed", needs="room-change", resumes=True),
    GoldenRun("pendulum-resumed", needs="pendulum-mixed", resumes=True),
]  # fmt: skip
"""Every run comes after the run that it needs."""


# --- train ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recorded:
    """The trained runs of a checkout."""

    folder: Path
    failed: dict[str, str]
    """The last line of the error output of each run that did not finish."""


def environment(checkout: Path) -> dict[str, str]:
    """The environment variables of a process that imports Peerage from `checkout` and uses one thread."""
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")}
    return {**os.environ, **threads, "PYTHONPATH": str(checkout), "CUDA_VISIBLE_DEVICES": ""}


def commit(checkout: Path) -> tuple[str, bool]:
    """The commit of `checkout`, and whether its package `peerage/` has modified or untracked files."""
    git = ["git", "-C", str(checkout)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
    changes = subprocess.run([*git, "status", "--porcelain", "--", "peerage"], capture_output=True, text=True)
    known = head.returncode == 0 and changes.returncode == 0
    return (head.stdout.strip() if known else "unknown"), not known or bool(changes.stdout.strip())


def train(run: GoldenRun, checkout: Path, folder: Path, needed: Future[str] | None) -> str:
    """Train `run` in `folder` unless it is there. Returns an error message, or "" if the run is done."""
    if needed is not None and needed.result():
        return f"{run.needs} failed"
    place, mark, log = folder / run.name, folder / f"{run.name}.json", folder / f"{run.name}.log"
    needs = next((other.command() for other in RUNS if other.name == run.needs), None)
    versions = {name: version(name) for name in PACKAGES}
    about = {"command": run.command(), "needs": needs, "python": sys.version, **versions}
    if mark.exists() and json.loads(mark.read_text()) == about:
        return ""
    for old in (mark, log, folder / f"{run.name}.npz"):
        old.unlink(missing_ok=True)
    shutil.rmtree(place, ignore_errors=True)
    if run.resumes:
        prepare_resume(folder / run.needs, place)
    began = time.monotonic()
    with log.open("w") as output:
        command = [sys.executable, *run.command()]
        process = subprocess.Popen(command, cwd=folder, env=environment(checkout), stdout=output, stderr=output)
        # After DONE is written only the figures and the report are left. They take longer than many of these runs.
        while process.poll() is None and not (place / "DONE").exists() and time.monotonic() - began < TIME_LIMIT:
            time.sleep(0.02)
        process.kill()
        process.wait()
    seconds = time.monotonic() - began
    if not (place / "DONE").exists():
        return (log.read_text(errors="replace").strip() or f"no result after {seconds:.0f} s").splitlines()[-1]
    mark.write_text(json.dumps(about, indent=1))
    print(f"{run.name}: trained in {seconds:.1f} s", file=sys.stderr, flush=True)
    return ""


def prepare_resume(source: Path, place: Path) -> None:
    """Copy a finished run and make it a run that was interrupted at a checkpoint in its first half."""
    shutil.copytree(source, place, ignore=shutil.ignore_patterns("DONE", "figures", "report.html", ".lock"))
    saved = checkpoints(place)
    for checkpoint in saved[max(2, (len(saved) + 1) // 2) :]:
        shutil.rmtree(checkpoint)


def checkpoints(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("step_*"))


def record(checkout: Path, names: Sequence[str], work: Path, jobs: int) -> Recorded:
    """Train the runs in `names`, and those that they need, and save the actions of their policies."""
    checkout = checkout.resolve()
    head, modified = commit(checkout)
    folder = work.resolve() / (f"modified-{zlib.crc32(str(checkout).encode()):08x}" if modified else head)
    if modified:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    futures: dict[str, Future[str]] = {}
    with ThreadPoolExecutor(jobs) as pool:
        for run in chosen(names):
            futures[run.name] = pool.submit(train, run, checkout, folder, futures.get(run.needs))
    failed = {name: error for name, future in futures.items() if (error := future.result())}
    missing = [name for name in futures if name not in failed and not (folder / f"{name}.npz").exists()]
    if missing:
        command = [sys.executable, "-P", __file__, "policies", str(checkout), *missing]
        subprocess.run(command, cwd=folder, env=environment(checkout), check=True, stdout=sys.stderr)
    return Recorded(folder, failed)


def chosen(names: Sequence[str]) -> list[GoldenRun]:
    """The runs in `names` and those that they need, in the order of `RUNS`; all runs if `names` is empty."""
    wanted = set(names) or {run.name for run in RUNS}
    for run in reversed(RUNS):
        if run.name in wanted and run.needs:
            wanted.add(run.needs)
    return [run for run in RUNS if run.name in wanted]


def save_policies(checkout: Path, runs: Sequence[str]) -> None:
    """Write RUN.npz for each run folder: the actions of every member on fixed random observations.

    This function runs in a process that imports Peerage from `checkout`.
    """
    import gymnasium

    import peerage
    import peerage.envs

    if not Path(peerage.__file__).resolve().is_relative_to(checkout):
        raise SystemExit(f"peerage was imported from {peerage.__file__}, not from {checkout}")
    warnings.simplefilter("ignore")  # Gymnasium warns of old versions of environments
    for name in runs:
        config = yaml.safe_load(Path(name, "config.yaml").read_text())
        shape = gymnasium.make(config["env"]).observation_space.shape or ()
        observations = np.random.default_rng(0).standard_normal((256, *shape)).astype(np.float32)
        run = peerage.load(name)
        actions: dict[str, Any] = {}
        for replica in range(config["replicas"]):
            for member in range(config["n_peers"]):
                policy = run.policy(member, replica)
                actions[f"member-{member} of replica {replica}"] = np.array([policy(obs) for obs in observations])
        np.savez(f"{name}.npz", **actions)


# --- measure ----------------------------------------------------------------------------------------------------


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none if there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def tensors(run: Path) -> dict[str, np.ndarray]:
    """The tensors of the last checkpoint, without the empty ones."""
    found: dict[str, np.ndarray] = {}
    for file in sorted(checkpoints(run)[-1].glob("*.safetensors")):
        found |= {key: array for key, array in safetensors.numpy.load_file(file).items() if array.size}
    return found


def values(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """All float32 values in ascending order. They do not depend on how the values are divided into tensors."""
    floats = [array.ravel() for array in arrays.values() if array.dtype == np.float32]
    return np.sort(np.concatenate(floats or [np.empty(0, np.float32)]))


def hashes(folder: Path, name: str) -> dict[str, Any]:
    """The hashes of one run for the JSON file."""
    tables: dict[str, Any] = {}
    for file, keys in KEYS.items():
        rows = read_table(folder / name / file)
        rows.sort(key=lambda row: [row[key] for key in keys])
        columns = {c: digest("\n".join(row[c] for row in rows).encode()) for c in (rows[0] if rows else ())}
        tables[file] = {"rows": len(rows), "columns": columns}
    state = tensors(folder / name)
    by_key = {key: digest(array.tobytes()) for key, array in sorted(state.items())}
    with np.load(folder / f"{name}.npz") as actions:
        policies = {member: digest(actions[member].tobytes()) for member in actions}
    found = {"tables": tables, "policies": policies, "tensors": by_key, "sorted_tensors": sorted(by_key.values())}
    return {**found, "sorted_values": digest(values(state).tobytes())}


# --- compare ----------------------------------------------------------------------------------------------------


class Comparison:
    """The differences between two runs. Relative differences up to `tolerance` are accepted."""

    def __init__(self, tolerance: float = 0.0) -> None:
        self.tolerance = tolerance
        self.differences: list[str] = []
        self.notes: list[str] = []
        self.accepted = False

    def __str__(self) -> str:
        verdict = f"same within {self.tolerance:g}" if self.accepted else "same"
        parts = [f"DIFFERS: {'; '.join(self.differences)}" if self.differences else verdict, *self.notes]
        return "; note: ".join(parts)

    def accepts(self, relative: float) -> bool:
        """Whether the relative difference of two unequal values is accepted."""
        accepted = relative <= self.tolerance
        self.accepted |= accepted
        return accepted

    def tables(self, file: str, a: list[dict[str, str]], b: list[dict[str, str]]) -> None:
        """Compare two tables by the columns that both have."""
        in_a, in_b = (list(rows[0]) if rows else [] for rows in (a, b))
        if a and b:
            self._only(f"{file}: columns", [c for c in in_a if c not in in_b], [c for c in in_b if c not in in_a])
        columns = [c for c in in_a if c in in_b and c not in KEYS[file]]
        one, two = _by_key(a, KEYS[file]), _by_key(b, KEYS[file])
        lost, added = [key for key in one if key not in two], [key for key in two if key not in one]
        if file == "metrics.csv":
            names = [{row["name"] for row in rows} for rows in (a, b)]
            self._only("metrics.csv: metrics", sorted(names[0] - names[1]), sorted(names[1] - names[0]))
            lost, added = ([key for key in keys if key[3] in names[0] & names[1]] for keys in (lost, added))
        for keys, side in ((lost, "A"), (added, "B")):
            if keys:
                self.differences.append(f"{file}: {len(keys)} rows only in {side}, first {' '.join(keys[0])}")
        first, differing, largest = "", set(), 0.0
        for key in one:
            for column in columns if key in two else ():
                x, y = one[key][column], two[key][column]
                if x != y and not self.accepts(relative := relative_difference(x, y)):
                    differing.add(key)
                    largest = max(largest, relative)
                    first = first or f"{' '.join(key)} {column}: {x or 'empty'} and {y or 'empty'}"
        if differing:
            rows = f"{len(differing)} of {len(one)} rows differ, first {first}"
            self.differences.append(f"{file}: {rows}, largest relative difference {largest:.2g}")

    def policies(self, a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
        """Compare actions of the same members on the same observations."""
        if a.keys() != b.keys():
            self.differences.append("policies: other members")
        for member in sorted(a.keys() & b.keys()):
            relative = array_difference(a[member], b[member])
            if relative and not self.accepts(relative):
                self.differences.append(f"policy of {member}: largest relative difference {relative:.2g}")

    def states(self, a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
        """Compare the tensors of two checkpoints."""
        alike = [key for key in a if key in b and a[key].shape == b[key].shape and a[key].dtype == b[key].dtype]
        unequal = {key: relative for key in alike if (relative := array_difference(a[key], b[key]))}
        if rejected := {key: relative for key, relative in unequal.items() if not self.accepts(relative)}:
            first, largest = min(rejected), max(rejected.values())
            text = f"tensors: {len(rejected)} of {len(alike)} differ, first {first}"
            self.differences.append(f"{text}, largest relative difference {largest:.2g}")
        a, b = ({key: array for key, array in side.items() if key not in alike} for side in (a, b))
        if a or b:
            counts = [Counter(digest(array.tobytes()) for array in side.values()) for side in (a, b)]
            if counts[0] == counts[1]:
                self.notes.append(f"tensors: {len(a)} have another key or shape and the same bytes")
            elif np.array_equal(values(a), values(b)):
                self.notes.append(f"tensors: {len(a)} in A and {len(b)} in B hold the same values in another layout")
            else:
                lost, added = counts[0] - counts[1], counts[1] - counts[0]
                text = f"tensors: {lost.total()} only in A and {added.total()} only in B were not compared, such as"
                self.notes.append(f"{text} {', '.join([*sorted(a)[:2], *sorted(b)[:2]])}")

    def _only(self, what: str, in_a: Sequence[str], in_b: Sequence[str]) -> None:
        if in_a:
            self.differences.append(f"{what} only in A: {', '.join(in_a)}")
        if in_b:
            self.notes.append(f"{what} only in B: {', '.join(in_b)}")


def _by_key(rows: list[dict[str, str]], names: Sequence[str]) -> dict[tuple[str, ...], dict[str, str]]:
    """Rows by their key columns. A repeated key gets a number."""
    seen: Counter[tuple[str, ...]] = Counter()
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        key = tuple(row[name] for name in names)
        seen[key] += 1
        found[key if seen[key] == 1 else (*key, f"#{seen[key]}")] = row
    return found


def relative_difference(x: str, y: str) -> float:
    """|x - y| / max(|x|, |y|) of two unequal cells; infinite unless both are finite numbers."""
    try:
        a, b = float(x), float(y)
    except ValueError:
        return math.inf
    largest = max(abs(a), abs(b))
    return abs(a - b) / (largest or 1.0) if math.isfinite(largest) else math.inf


def array_difference(a: np.ndarray, b: np.ndarray) -> float:
    """The largest |a - b| relative to the largest |a|; 0 if the bytes are equal, infinite for integers that differ."""
    if a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes():
        return 0.0
    if a.shape != b.shape or a.dtype != b.dtype or a.dtype.kind != "f":
        return math.inf
    difference = float(np.abs(a - b).max() / max(np.abs(a).max(), np.finfo(a.dtype).tiny))
    return difference if math.isfinite(difference) else math.inf


def compare_run(name: str, a: Recorded, b: Recorded, tolerance: float) -> Comparison:
    found = Comparison(tolerance)
    for recorded, side in ((a, "A"), (b, "B")):
        if name in recorded.failed:
            found.differences.append(f"not trained in {side}: {recorded.failed[name]}")
    if not found.differences:
        for file in KEYS:
            found.tables(file, *(read_table(recorded.folder / name / file) for recorded in (a, b)))
        with np.load(a.folder / f"{name}.npz") as one, np.load(b.folder / f"{name}.npz") as two:
            found.policies(dict(one), dict(two))
        found.states(*(tensors(recorded.folder / name) for recorded in (a, b)))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    names = [run.name for run in RUNS]
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--only", nargs="+", choices=names, default=[], metavar="NAME", help=f"of {', '.join(names)}")
    options.add_argument("--work", type=Path, default=Path("experiments/golden"), help="folder that holds the runs")
    options.add_argument("--jobs", type=int, default=1, help="runs at a time (default 1)")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.golden", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="{record,compare}")
    one = commands.add_parser("record", parents=[options], help="write the hashes of one checkout")
    one.add_argument("--checkout", type=Path, default=Path("."), help="(default: the current directory)")
    one.add_argument("--out", type=Path, help="the JSON file (default: standard output)")
    two = commands.add_parser("compare", parents=[options], help="compare two checkouts")
    two.add_argument("checkouts", type=Path, nargs=2, metavar="DIR")
    two.add_argument("--tolerance", type=float, default=0.0, help="accepted relative difference (default 0)")
    policies = commands.add_parser("policies")  # for `record`
    policies.add_argument("checkout", type=Path)
    policies.add_argument("runs", nargs="+")
    args = parser.parse_args(arguments)
    if args.command == "policies":
        save_policies(args.checkout, args.runs)
    elif args.command == "record":
        recorded = record(args.checkout, args.only, args.work, args.jobs)
        head, modified = commit(args.checkout)
        runs = {r.name: hashes(recorded.folder, r.name) for r in chosen(args.only) if r.name not in recorded.failed}
        text = json.dumps({"commit": head, "modified": modified, "failed": recorded.failed, "runs": runs}, indent=1)
        print(text) if args.out is None else args.out.write_text(text + "\n")
        for name, error in recorded.failed.items():
            print(f"{name}: failed: {error}", file=sys.stderr)
        raise SystemExit(bool(recorded.failed))
    else:
        a, b = (record(checkout, args.only, args.work, args.jobs) for checkout in args.checkouts)
        if a.folder == b.folder:
            parser.error("both are the same unmodified commit, or the same folder: there is nothing to compare")
        found = {run.name: compare_run(run.name, a, b, args.tolerance) for run in chosen(args.only)}
        for name, comparison in found.items():
            print(f"{name}: {comparison}", flush=True)
        raise SystemExit(any(comparison.differences for comparison in found.values()))


if __name__ == "__main__":
    main()
