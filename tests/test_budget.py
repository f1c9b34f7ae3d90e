"""The estimated resources of a run, against numbers computed by hand and against real processes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import memory
from peerage.config import AdviceConfig, Config, LearnerConfig, RunConfig
from peerage.errors import UserError
from peerage.session import run_training
from peerage.training import budget
from peerage.training.budget import Budget, available_memory, check, estimate, guard
from peerage.training.trainer import Trainer
from peerage.trust.in_context_settings import ContextSettings
from peerage.trust.transformer_settings import TrustTransformerSettings

MB, GB, TB = 10**6, 10**9, 10**12
LEARNER = LearnerConfig(buffer_size=(1000,), net_arch=((16,),), batch_size=(8,))
TD = Config(  # Room-v6: 4 observations, 4 actions; 6 members
    env="Room-v6", n_peers=2, replicas=3, total_timesteps=5000, learner=LEARNER, advice=AdviceConfig(trust="td")
)
LOG = RunConfig(log_freq=100, eval_freq=100, n_eval_episodes=2, checkpoint_freq=100, verbose=0)


@pytest.fixture
def of(one_thread):
    """The budget of a configuration."""
    made = []

    def build(config: Config, keep: int = 2) -> Budget:
        made.append(Trainer(config))
        return estimate(made[-1], keep)

    yield build
    for trainer in made:
        trainer.close()


# --- memory, by hand ----------------------------------------------------------------------------------------


def test_parts_by_hand(of):
    memory = of(TD).memory
    # obs 4, action, next obs 4, reward, terminated: 11 floats; and the rows' offsets, 8 bytes each
    assert memory["replay"] == 6 * 1000 * 11 * 4 + 6 * 8
    # 4 x 16 + 16 and 16 x 4 + 4 weights; network and target with their gradients, and two moments of Adam
    networks = 6 * 148 * 6 * 4
    assert networks <= memory["networks"] < networks + 1000  # and a few numbers per member
    # The last 1000 transitions and 16 for deferred updates, with whom one followed: 12 floats; and the rows' offsets
    assert memory["recent transitions"] == 6 * 1016 * 12 * 4 + 6 * 8
    assert 6 * 2 * 4 + 3 * 2 * 4 <= memory["suggestions"] < 1000  # trust 6 x 2 and agent values 3 x 2
    # Blocks of 1024 draws, as they are drawn and as they are handed out: batches of 8, two numbers to explore, one of
    # warm-up and one of the choice, trust 10 + 5, all of 8 bytes; DQN's policy draws nothing
    assert memory["random streams"] == 2 * 6 * 1024 * 8 * (8 + 2 + 1 + 1 + 15)
    assert "decisions" not in memory and "histories" not in memory


def test_the_buffer_is_cut_to_the_run(of):
    config = replace(TD, total_timesteps=400)
    assert of(config).memory["replay"] == 6 * 400 * 11 * 4 + 6 * 8
    assert of(config).memory["recent transitions"] == 6 * 400 * 12 * 4 + 6 * 8


def test_sac_by_hand(of):
    config = Config(env="Pendulum-v1", n_peers=2, total_timesteps=900, learner=LEARNER)
    memory = of(config).memory
    assert memory["replay"] == 2 * 900 * (3 + 1 + 3 + 2) * 4 + 2 * 8
    actor, critics = 3 * 16 + 16 + 16 * 2 + 2, 2 * (4 * 16 + 16 + 16 + 1)
    networks = 2 * 4 * (actor * 4 + critics * 6)  # the actor has no target
    assert networks <= memory["networks"] < networks + 500


def test_a_decision_by_hand(of):
    base = replace(TD, replicas=1, advisers=("expert",), advice=AdviceConfig(trust="in-context"))
    parts = [{"context": ContextSettings(context_history=n)} for n in (50, 1050)]
    few, many = (of(replace(base, methods=methods)).memory["decisions"] for methods in parts)
    # Two states of 4 floats, 3 suggestions; adviser, reward, discount, begin and end; its place in the order and its
    # number; advantage, and critic and agreement of 3 advisers
    assert many - few == 1000 * 2 * (2 * 16 + 3 * 4 + 5 * 8 + 2 * 8 + 8 + 2 * 3 * 8)


def test_a_step_of_history_by_hand(of):
    base = replace(TD, advice=AdviceConfig(trust="hybrid"))
    parts = [{"trust_transformer": TrustTransformerSettings(attention_history=n)} for n in (100, 1100)]
    few, many = (of(replace(base, methods=methods)) for methods in parts)
    # Room's 18 features and two advisers, reward; phase and the episode's begin
    assert many.memory["histories"] - few.memory["histories"] == 1000 * 6 * (20 * 4 + 4 + 2 * 8)
    # 113,000 weights and more of Room's, with gradients and two moments of Adam
    assert 6 * 4 * 4 * 110_000 < few.memory["trust networks"] < 6 * 4 * 4 * 120_000


def test_a_storage_counts_once():
    base = torch.zeros(100)
    array = np.zeros((10, 10))
    tree = {"a": base, "b": [base[5:], base.view(10, 10)], "c": base.numpy()[3:], "d": (array, array.T, array[2])}
    found = list(budget._storages(list(budget._walk(tree))))
    assert sorted(size for _, _, size, _ in found) == [400, 800]


def test_tensors_of_registered_methods_are_counted(one_thread):
    trainer = Trainer(TD)
    before = sum(estimate(trainer, 2).memory.values())
    trainer.sharing.signals["td"].more = [{"deep": torch.zeros(1000)}]
    assert sum(estimate(trainer, 2).memory.values()) == before + 4000
    trainer.close()


# --- memory and disk, by trial ------------------------------------------------------------------------------

GROWTH = """
import gymnasium as gym, json, numpy as np, warnings
from benchmarks.memory import resident
from peerage.config import *
from peerage.training import budget
from peerage.training.trainer import Trainer

class Wide(gym.Env):
    observation_space = gym.spaces.Box(0, 1, (500,), np.float32)
    action_space = gym.spaces.Discrete(3)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.ones(500, np.float32), {}
    def step(self, action):
        return np.ones(500, np.float32), 1.0, False, False, {}

learner = LearnerConfig(net_arch=((400,),), batch_size=(32,), learning_starts=(2990,))
config = Config(n_peers=4, total_timesteps=3000, learner=learner, advice=AdviceConfig(trust="td"), threads=1,
                run=RunConfig(eval_freq=0, verbose=0))
Trainer(config, env=Wide).close()  # whatever is loaded only once
before = resident()
trainer = Trainer(config, env=Wide)
built = resident()
said = budget.estimate(trainer, 2)
trainer.begin()
for _ in range(3000):
    trainer.advance()
print(json.dumps({"said": said.memory, "written": said.written, "built": built - before, "took": resident() - before}))
"""


@pytest.mark.long
def test_a_real_process_uses_the_estimated_memory():
    found = json.loads(_python(GROWTH))
    said = found["said"]
    assert said["replay"] == 4 * 3000 * 1003 * 4 + 4 * 8  # 48 MB
    # The buffers cost nothing until something is in them, and the networks are there at once (again 19 MB)
    assert 0.5 * found["written"] < found["built"] < found["written"] + 15 * MB
    lasting = sum(said.values()) - max(said.get(name, 0) for name in ("batches", "a checkpoint's copy"))
    assert 0.9 * lasting < found["took"] < 1.5 * sum(said.values())


@pytest.mark.long
@pytest.mark.parametrize("trust", ["hybrid", "in-context"])
def test_a_run_uses_the_estimated_disk_space(of, trust, tmp_path):
    config = replace(
        TD,
        total_timesteps=600,
        advice=AdviceConfig(trust=trust),
        run=replace(LOG, log_dir=str(tmp_path), exp_name="run", keep_checkpoints=2),
    )
    said = of(config).disk
    run = run_training(config)
    chunks = sum(path.stat().st_size for path in (run / "checkpoints" / "chunks").iterdir())
    newest = max((run / "checkpoints").glob("step_*"))
    whole = sum(path.stat().st_size for path in newest.iterdir())
    tables = sum(path.stat().st_size for path in run.glob("*.csv"))
    # At most, and while a third is written: chunks as small as these are written again in every checkpoint
    assert chunks < said["replay"] + said["recent transitions"] + said.get("histories", 0) < 3 * chunks
    assert whole < said["checkpoints"] / 3 < 2 * whole + 65_536  # two are kept while a third one is written
    assert tables < said["metrics"] + said["evaluations"] < 4 * tables  # empty cells and metrics that not all have


def test_buffers_on_the_disk_by_hand(of):
    """100,000 transitions are in the buffer; three intervals of 40,000 came since the oldest of two checkpoints, the
    one that is being written included: 220,000 of 5,000,000, and a small chunk of 1 MiB for each of the three."""
    config = replace(TD, learner=replace(LEARNER, buffer_size=(100_000,)), run=replace(LOG, checkpoint_freq=40_000))
    long = replace(config, total_timesteps=5_000_000)
    assert of(long).disk["replay"] == pytest.approx(220_000 * 6 * 11 * 4 + 3 * 2**20, rel=1e-4)
    assert of(long, keep=1).disk["replay"] == pytest.approx(180_000 * 6 * 11 * 4 + 2 * 2**20, rel=1e-4)
    short = replace(config, total_timesteps=120_000)
    assert of(short).disk["replay"] == pytest.approx(120_000 * 6 * 11 * 4 + 3 * 2**20, rel=1e-4)
    once = replace(long, run=replace(LOG, checkpoint_freq=0))  # at the beginning, with nothing in it, and at the end
    assert of(once).disk["replay"] < 5 * 100_000 * 6 * 11 * 4


# --- what is refused ----------------------------------------------------------------------------------------

SAID = Budget({"replay": 410 * MB, "networks": 14 * MB, "suggestions": 8 * MB}, {"replay": 450 * MB}, fewer="--n-peers")


def test_words():
    assert SAID.text() == "memory: 432 MB (replay 410 MB, networks 14 MB, trust 8.0 MB); disk: 450 MB"
    on_gpu = replace(SAID, memory={"random streams": MB}, gpu={"replay": 2 * GB})
    assert on_gpu.text() == "memory: 1.0 MB (random streams 1.0 MB); GPU: 2.0 GB (replay 2.0 GB); disk: 450 MB"


def test_what_cannot_fit_is_refused_with_the_setting_to_change(tmp_path):
    with pytest.raises(UserError) as error:
        check(SAID, tmp_path, memory=300 * MB, disk=TB)
    assert str(error.value) == (
        "this run needs 432 MB of memory, and 300 MB are free: use a smaller --buffer-size or fewer --n-peers"
    )
    with pytest.raises(UserError, match=r"450 MB of disk space in .*, and 20 MB are free: use a smaller --buffer-size"):
        check(SAID, tmp_path, memory=TB, disk=20 * MB)
    with pytest.raises(UserError, match="a smaller --buffer-size and a smaller --net-arch"):  # one is not enough
        check(SAID, tmp_path, memory=10 * MB, disk=TB)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("")  # a run that is resumed: its settings are what they are
    with pytest.raises(UserError, match=r"and 300 MB are free: free some space to resume it$"):
        check(SAID, tmp_path / "run", memory=300 * MB, disk=TB)
    with pytest.raises(UserError, match="memory of the GPU"):
        check(replace(SAID, gpu={"histories": GB}), tmp_path, memory=TB, disk=TB, gpu=MB)


@pytest.mark.parametrize(
    "part, setting",
    [
        ("networks", "--net-arch"), ("histories", "--attention-history"), ("decisions", "--context-history"),
        ("suggestions", "--trust-buffer-size"), ("batches", "--batch-size"), ("environments", "--n-eval-episodes"),
        ("trust batches", "--attention-batch-size"), ("trust networks", "use fewer --replicas"),
        ("recent transitions", "--trust-buffer-size"),
    ],
)  # fmt: skip
def test_the_largest_part_has_its_setting(part, setting, tmp_path):
    with pytest.raises(UserError, match=setting):
        check(Budget({part: GB, "other": MB}, {}, fewer="--replicas"), tmp_path, memory=500 * MB, disk=TB)


def test_memory_that_is_already_used_need_not_fit_again(tmp_path):
    said = Budget({"networks": 400 * MB, "replay": 100 * MB}, {}, written=400 * MB)
    assert len(check(said, tmp_path, memory=150 * MB, disk=TB)) == 1
    with pytest.raises(UserError):
        check(replace(said, written=0), tmp_path, memory=150 * MB, disk=TB)


def test_low_memory_or_disk_space_gives_a_message(tmp_path):
    need = 432 * MB + budget.OTHER
    assert check(SAID, tmp_path, memory=int(need / 0.79), disk=TB) == []
    (line,) = check(SAID, tmp_path, memory=int(need / 0.81), disk=TB)
    assert line.startswith("low memory: this run needs 432 MB") and "\n" not in line
    (line,) = check(SAID, tmp_path, memory=TB, disk=int(450 * MB / 0.81))
    assert line.startswith("low disk space in")


def test_the_folder_need_not_exist(tmp_path):
    assert check(SAID, tmp_path / "a" / "b", memory=TB) == check(SAID, tmp_path, memory=TB)


def test_a_resumed_run_already_has_some_of_the_files(tmp_path, monkeypatch):
    (tmp_path / "config.yaml").write_text("x")
    (tmp_path / "large").write_bytes(bytes(3 * MB))
    said = Budget({}, {"replay": 4 * MB})
    usage = type("Usage", (), {"free": 2 * MB})
    monkeypatch.setattr(budget.shutil, "disk_usage", lambda path: usage)
    check(said, tmp_path, memory=TB)
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(UserError):
        check(said, tmp_path, memory=TB)


# --- what cannot be built -----------------------------------------------------------------------------------


def context(**settings: int) -> dict[str, Any]:
    return {"methods": {"context": ContextSettings(**settings)}}


def transformer(**settings: int) -> dict[str, Any]:
    return {"methods": {"trust_transformer": TrustTransformerSettings(**settings)}}


@pytest.mark.parametrize("size", [10**12, 10**18])
@pytest.mark.parametrize(
    "setting, changes",
    [
        ("--buffer-size", lambda n: {"learner": replace(LEARNER, buffer_size=(n,))}),
        ("--net-arch", lambda n: {"learner": replace(LEARNER, net_arch=((n, n),))}),
        ("--batch-size|--buffer-size", lambda n: {"learner": replace(LEARNER, batch_size=(n,))}),
        ("--trust-batch-size", lambda n: {"advice": AdviceConfig(trust="td", trust_batch_size=n)}),
        ("--trust-buffer-size", lambda n: {"advice": AdviceConfig(trust="td", trust_buffer_size=n)}),
        ("--context-history", lambda n: context(context_history=n)),
        ("--attention-history", lambda n: transformer(attention_history=n)),
        ("--attention-batch-size", lambda n: transformer(attention_batch_size=n)),
        ("--context-batch-size", lambda n: context(context_batch_size=n)),
        ("--n-eval-episodes", lambda n: {"run": replace(LOG, n_eval_episodes=n)}),
    ],
)
def test_absurd_sizes_end_in_one_line(setting, changes, size, tmp_path, one_thread):
    trust = "hybrid" if "attention" in setting else "in-context"
    run = replace(LOG, log_freq=10**15, eval_freq=10**15)
    config = replace(TD, total_timesteps=9 * 10**18, advice=AdviceConfig(trust=trust), run=run)
    config = replace(config, **changes(size))
    if config.run.n_eval_episodes == size:
        config = replace(config, total_timesteps=1000)
    with pytest.raises(UserError, match=setting) as error:
        with guard():
            trainer = Trainer(config)
        check(estimate(trainer, 2), tmp_path)
    assert "\n" not in str(error.value)


def test_networks_are_not_filled_beyond_the_available_memory(one_thread):
    """2 members of 2 networks with gradients, 100 x 100: some hundred KB."""
    config = replace(TD, replicas=1, learner=replace(LEARNER, net_arch=((100, 100),)))
    with guard(memory=10 * MB):
        Trainer(config).close()
    with pytest.raises(UserError, match="--net-arch"), guard(memory=100_000):
        Trainer(config)


def test_the_guard_does_not_change_other_errors():
    with pytest.raises(ValueError, match="something else"), guard():
        raise ValueError("something else")
    with pytest.raises(UserError, match="unknown environment"), guard():
        Trainer(replace(TD, env="Nowhere-v0"))


# --- what there is ------------------------------------------------------------------------------------------


def _machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable:    8000 kB\n"}


def test_available_of_the_machine(tmp_path):
    assert available_memory(_machine(tmp_path, MEMINFO)) == 8000 * 1024


def test_available_in_a_control_group(tmp_path):
    """Its own limit leaves 3000 and 500 of files; the one above it, 2500."""
    files = {
        "proc/self/cgroup": "0::/outer/inner\n",
        "sys/fs/cgroup/outer/inner/memory.max": "4000\n",
        "sys/fs/cgroup/outer/inner/memory.current": "1000\n",
        "sys/fs/cgroup/outer/inner/memory.stat": "anon 400\ninactive_file 500\n",
    }
    assert available_memory(_machine(tmp_path, {**MEMINFO, **files})) == 3500
    above = {"sys/fs/cgroup/outer/memory.max": "3000\n", "sys/fs/cgroup/outer/memory.current": "500\n"}
    assert available_memory(_machine(tmp_path, above)) == 2500
    unlimited = {"sys/fs/cgroup/outer/memory.max": "max\n", "sys/fs/cgroup/outer/inner/memory.max": "max\n"}
    assert available_memory(_machine(tmp_path, unlimited)) == 8000 * 1024


def test_available_in_a_control_group_of_version_1(tmp_path):
    files = {
        "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/some/where\n0::/\n",
        "sys/fs/cgroup/memory/some/where/memory.limit_in_bytes": "7000\n",
        "sys/fs/cgroup/memory/some/where/memory.usage_in_bytes": "1000\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "1000\n",
    }
    assert available_memory(_machine(tmp_path, {**MEMINFO, **files})) == 6000


def test_available_within_a_limit_on_addresses():
    pytest.importorskip("resource")
    code = "import resource as r; from peerage.training.budget import available_memory as a; before = a();"
    code += "r.setrlimit(r.RLIMIT_AS, (20 * 10**9, r.getrlimit(r.RLIMIT_AS)[1])); print(before, a())"
    before, limited = map(int, _python(code).split())
    assert 0 < limited < 20 * 10**9 and limited <= before


# --- does it grow? ------------------------------------------------------------------------------------------

FLAT = """
import json, sys, tempfile
import peerage
from benchmarks.memory import Watch, summary
from peerage.runs.listeners import Listener

class Leak(Listener):
    def on_start(self, info): self.kept = []
    def on_metrics(self, step, rows): self.kept.append(b"x" * 200_000)

steps, full, listeners = int(sys.argv[1]), int(sys.argv[2]), [Leak()] if sys.argv[3] == "leak" else []
settings = dict(env="Room-v6", n_peers=2, advisers=["expert"], total_timesteps=steps, buffer_size=500, batch_size=16,
    context_history=60, log_freq=100, eval_freq=1000, n_eval_episodes=2, checkpoint_freq=500, threads=1, verbose=0)
watch = Watch()
with tempfile.TemporaryDirectory() as folder:
    peerage.train(log_dir=folder, listeners=[watch, *listeners], **settings)
print(json.dumps(summary(watch.samples, full)))
"""


@pytest.mark.long
def test_memory_stays_flat():
    flat = json.loads(_python(FLAT, "5000", "2000", "no"))
    assert flat["steps"] == 5000 and flat["growth"] < 2


@pytest.mark.long
def test_a_leak_would_show():
    """0.2 MB in every 100 steps."""
    assert json.loads(_python(FLAT, "2000", "500", "leak"))["growth"] > 2.5


@pytest.mark.long
def test_the_number_of_cached_kernels_is_limited():
    """oneDNN compiles a product for every shape it meets and keeps it, half a megabyte each: torch's own limits are
    1,024 shapes, twice."""
    from peerage.nets import native

    if not native.available("onednn_linear"):
        pytest.skip("torch without oneDNN")
    code = """
import torch
from peerage.nets.native import onednn_linear
from peerage.nets.workers import configure
from benchmarks.memory import resident, trim
configure(1)
weight, sizes = torch.zeros(64, 64), []
for n in range(1000):
    onednn_linear(torch.zeros(100 + n, 64), weight)
    if n in (399, 999):
        trim()
        sizes.append(resident() / 1e6)
print(sizes[1] - sizes[0])
"""
    assert float(_python(code)) < 50


# --- the benchmark ------------------------------------------------------------------------------------------


def test_summary_by_hand():
    """Full at 20: from 130 to 150 MB in 40 steps, of which the line sees half a megabyte a step."""
    samples = [(0, 100 * MB), (10, 160 * MB), (20, 130 * MB), (40, 140 * MB), (60, 150 * MB)]
    assert memory.summary(samples, 20) == {
        "steps": 60, "first": 100, "peak": 160, "last": 150, "full": 130, "growth": 20, "per_100000": 50_000,
    }  # fmt: skip


@pytest.mark.long
def test_the_benchmark_measures_and_draws(tmp_path):
    samples = memory.in_process("pendulum-sac", 300)
    assert samples[0][0] == 0 and samples[-1][0] == 300 and all(size > 50 * MB for _, size in samples)
    memory.draw({"pendulum-sac": samples}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000
    text = memory.table({"pendulum-sac": samples}, memory.machine("cpu"))
    assert "| pendulum-sac | 300 |" in text
    page = memory.into_docs(f"a\n{memory.BEGIN}\nold\n{memory.END}\nb\n", text)
    assert "old" not in page and text in page and page.startswith("a\n") and page.endswith("b\n")


def _python(code: str, *arguments: str) -> str:
    """The output of a separate process."""
    root = Path(__file__).parent.parent
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()
