"""Federations: exchanges between processes. Several participants are threads here, except where one is killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gymnasium
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

import peerage
from peerage.cli import main
from peerage.config import Config, RunConfig, with_settings
from peerage.config.file import dump
from peerage.config.roster import Roster
from peerage.envs.make import EnvMaker, check_env_id, makers_of
from peerage.errors import UserError
from peerage.nets.kernels import BATCHED, Layer, pad_single_rows, run
from peerage.reports.encoder_attention import attention
from peerage.sharing.transports import folder as folder_module
from peerage.sharing.transports.base import SENDS, Stopped, Waiting
from peerage.sharing.transports.folder import Folder
from peerage.sharing.transports.messages import FORMAT
from peerage.training import trainer as trainer_module
from peerage.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("no_reports", "one_thread")

SMALL = dict(
    n_peers=1, total_timesteps=60, device="cpu", sharing="none", exchange_freq=25, log_freq=20, eval_freq=0, verbose=0,
)  # fmt: skip
OFF_POLICY = dict(learning_starts=(10,), batch_size=(8,), net_arch=((8,),), train_freq=(5,))
FEDFORMER = dict(
    OFF_POLICY, env="Pendulum-v1", algorithm=("sac",), exchange=("fedformer",), fedformer_width=8, fedformer_heads=2,
    fedformer_hidden=8, fedformer_dropout=0.1,
)  # fmt: skip
CASES = {
    "fedformer": FEDFORMER,
    "fedformer, replicas": FEDFORMER | {"replicas": 2, "exchange": ("fedformer", "average")},
    "fedavg": OFF_POLICY | {"env": "Room-v6", "exchange": ("fedavg",)},
    "average": {
        "env": "Pendulum-v1", "algorithm": ("ppo",), "exchange": ("average",), "n_steps": (25,), "batch_size": (5,),
        "normalize_obs": (True,), "total_timesteps": 75,
    },
}  # fmt: skip
THREE = ("ann", "bob", "cat")


class Canary(gymnasium.Env):
    """An environment with a known reward, and a known goal in its observations."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, reward, goal):
        self.reward, self.goal = reward, goal

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.array([self.np_random.normal(), self.goal], np.float32), {}

    def step(self, action):
        obs = np.array([self.np_random.normal(), self.goal], np.float32)
        return obs, self.reward, False, bool(self.np_random.random() < 0.1), {}


@pytest.fixture(autouse=True)
def one_trial_at_a_time(monkeypatch):
    """The trial of an environment replaces the global random generators, so threads must take turns."""
    lock = threading.Lock()

    def check(*arguments):
        with lock:
            return check_env_id(*arguments)

    monkeypatch.setattr(trainer_module, "check_env_id", check)


@pytest.fixture(autouse=True)
def usual_products():
    yield
    pad_single_rows(False)


def config(**changes) -> Config:
    return with_settings(Config(run=RunConfig()), {**SMALL, **changes})


def as_participant(name, folder, participants=THREE, **changes):
    return {**changes, "federation": str(folder), "participant": name, "participants": participants}


def trained(config: Config) -> Trainer:
    trainer = Trainer(config)
    trainer.begin()
    while trainer.step < trainer.steps:
        trainer.advance()
    trainer.close()
    return trainer


def together(configs: list[Config]) -> list[Trainer]:
    """Train the participants at the same time."""
    with ThreadPoolExecutor(len(configs)) as pool:
        return list(pool.map(trained, configs))


def learned(trainer: Trainer, member: int) -> dict[str, torch.Tensor]:
    learner = trainer.group.stacks[0].learner
    found = trainer.group.member_parameters(member)
    if hasattr(learner, "optimizers"):
        found |= {f"{name} moments": o.exp_avg_sq[member].clone() for name, o in learner.optimizers.items()}
    return found | {"observation": trainer.obs[member]}


@pytest.mark.parametrize("case", CASES)
def test_three_processes_with_a_member_each_train_like_one_with_three(case, tmp_path):
    """Also in two processes, of two members and one. The bits of FedFormer are compared with a federation of one
    participant, those of the averages with a run without a federation."""
    settings = CASES[case]
    whole = {"n_peers": 3}
    if "fedformer" in case:
        whole |= as_participant("all", tmp_path / "whole", ("all:3",))
    whole = trained(config(**settings, **whole))
    single = [config(**as_participant(name, tmp_path / "single", **settings)) for name in THREE]
    two = [
        config(**as_participant(name, tmp_path / "two", ("early:2", "late"), **settings, n_peers=n))
        for name, n in (("late", 1), ("early", 2))
    ]
    late, early = together(two)
    places = [(trainer, 0, i) for i, trainer in enumerate(together(single))]
    places += [(early, 0, 0), (early, 1, 1), (late, 0, 2)]
    for r in range(whole.R):
        for trainer, own, member in places:
            expected, found = learned(whole, r * 3 + member), learned(trainer, r * trainer.N + own)
            assert expected.keys() == found.keys()
            for name, values in expected.items():
                assert torch.equal(values, found[name]), (name, member)
    before, after = Trainer(config(**settings, n_peers=2)), learned(whole, 0)
    assert not any(torch.equal(values, after[name]) for name, values in before.group.member_parameters(0).items())
    before.close()
    if "fedformer" in case:
        critics = [trainer.group.stacks[0].learner.critic for trainer in (whole, late)]
        assert torch.equal(critics[0].received, critics[1].received) and bool(critics[1].heard.all())
        logged = late.metrics()
        names = {name for _, _, name, _ in logged if "attention" in name}
        assert names == {f"fedformer/attention_{label}" for label in ("cls", "early:0", "early:1", "0")}
        rows = [(late.steps, r, "member-0", name, value) for r, _, name, value in logged]
        seen = attention(pd.DataFrame(rows, columns=["step", "replica", "member", "name", "value"]))
        assert set(seen["adviser"]) == {"CLS", "early:0", "early:1", "member-0"}
        ages = {name: value for _, _, name, value in logged if "age" in name}
        assert ages.pop("fedformer/age_early") == 0 and set(ages) <= {"average/age_early"}


def test_a_single_row_has_the_bits_that_it_has_in_a_stack():
    """For some shapes, a batch of one product is computed in another way than one of several."""
    differed = 0
    for inputs, width, batch in ((1, 256, 2), (256, 1, 3), (1, 64, 8), (5, 7, 9), (64, 64, 1)):
        drawn = [torch.randn(3, *shape) for shape in ((inputs, width), (1, width), (batch, inputs), (batch, width))]
        results = []
        for rows, pads in ((slice(None), False), (slice(1, 2), True), (slice(1, 2), False)):
            pad_single_rows(pads)
            weight, bias, x, grad = (values[rows].clone() for values in drawn)
            weight_grad, bias_grad = torch.zeros_like(weight), torch.zeros_like(bias)
            BATCHED.add_gradients(x, grad, weight_grad, bias_grad)
            out = run(x, [Layer(weight, bias)], rowwise=False)
            results.append((out, weight_grad, bias_grad, BATCHED.input_gradient(grad, weight)))
        stacked, padded, single = results
        for a, b in zip(stacked, padded, strict=True):
            assert b.shape[0] == 1 and torch.equal(a[1:2], b)
        differed += not all(torch.equal(a, b) for a, b in zip(padded, single, strict=True))
    assert differed or torch.backends.mkl.is_available() is False


# --- messages -------------------------------------------------------------------------------------------------


class Told(Waiting):
    """Stops after some polls, and keeps what was said."""

    def __init__(self, polls=2):
        self.lines, self.polls = [], polls
        super().__init__(self.stop_now, self.lines.append)

    def stop_now(self):
        self.polls -= 1
        return self.polls < 0


def transport(root, name="ann", *, told=None, least=None, timeout=0.0, participants=THREE):
    roster = Roster(name, dict.fromkeys(participants, 1))
    return Folder(root, roster, "fedformer", told or Told(), least, timeout)


def arrays(value=1.0, sends=True):
    return {"encoders": torch.full((1, 1, 2, 3), value), SENDS: torch.tensor([[sends]])}


def message(path: Path, tensors=None, **labels):
    """Write a message as a participant of another program might."""
    path.parent.mkdir(parents=True, exist_ok=True)
    said = {"format": FORMAT, "participant": path.parent.name, "exchange": "fedformer", "round": "1", **labels}
    save_file(arrays() if tensors is None else tensors, path, said)


WRONG = {
    "not finite": ({"encoders": torch.full((1, 1, 2, 3), torch.nan)}, {}, "encoders has numbers that are not finite"),
    "shape": ({"encoders": torch.zeros(1, 1, 2, 4)}, {}, r"encoders is \[1, 1, 2, 4\] .* not \[1, 1, 2, 3\]"),
    "type": ({"encoders": torch.zeros(1, 1, 2, 3).double()}, {}, "torch.float64, not .* torch.float32"),
    "another array": ({"replay": torch.zeros(1)}, {}, "it has the arrays encoders, replay, sends, not encoders, sends"),
    "version": ({}, {"format": "peerage-federation-2"}, "says format peerage-federation-2, .* not format .*-1"),
    "round": ({}, {"round": "2"}, "round 2, not .* round 1"),
    "participant": ({}, {"participant": "cat"}, "participant cat, .* not .* participant bob"),
    "more text": ({}, {"seed": "5"}, "it says .*, not "),
    "too large": ({"encoders": torch.zeros(1, 1, 2, 9000)}, {}, "it is larger than 16,409 bytes"),
}


@pytest.mark.parametrize("case", [*WRONG, "damaged", "a link"])
def test_a_wrong_message_is_dropped_and_a_right_one_is_used_later(case, tmp_path):
    tensors, labels, why = WRONG.get(case, ({}, {}, "not a regular file" if case == "a link" else "it is damaged"))
    path, told = tmp_path / "bob" / "fedformer-00000001.safetensors", Told()
    message(path, arrays() | tensors, **labels)
    if case == "damaged":
        path.write_bytes(path.read_bytes()[:-3])
    if case == "a link":
        os.rename(path, tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    ann = transport(tmp_path, told=told, participants=("ann", "bob"))
    with pytest.raises(Stopped):
        ann.exchange(1, arrays())
    (line,) = told.lines
    assert line.startswith(f"{path} is dropped: ") and "\n" not in line
    assert re.search(why, line), line
    path.unlink()
    message(path, arrays(7.0))
    found = ann.exchange(1, arrays(3.0))
    assert found["encoders"].unique().tolist() == [3.0, 7.0] and found[SENDS].all()


def test_a_lost_participant_is_not_waited_for_again_and_a_resume_uses_the_same_messages(tmp_path):
    message(tmp_path / "bob" / "fedformer-00000001.safetensors", arrays(2.0))
    told = Told()
    with pytest.raises(Stopped):  # without --min-participants, it waits for all, however long
        transport(tmp_path, told=told).exchange(1, arrays())
    ann = transport(tmp_path, least=2)
    first = ann.exchange(1, arrays())
    assert first[SENDS].tolist() == [[True, True, False]] and first["encoders"][0, 2].eq(0).all()
    assert ann.metrics() == {"fedformer/age_bob": 0.0, "fedformer/age_cat": 1.0}
    message(tmp_path / "cat" / "fedformer-00000001.safetensors", arrays(4.0))  # late
    again = transport(tmp_path, least=2)
    for name, values in again.exchange(1, arrays()).items():
        assert torch.equal(values, first[name])
    patient = transport(tmp_path, least=2, timeout=1e9)  # nobody who took part in the last round is missing
    for name in ("bob", "cat"):
        message(tmp_path / name / "fedformer-00000002.safetensors", arrays(5.0), round="2")
    assert patient.exchange(2, arrays())[SENDS].all() and set(patient.metrics().values()) == {0.0}
    message(tmp_path / "bob" / "fedformer-00000004.safetensors", arrays(5.0), round="4")
    assert patient.exchange(4, arrays())[SENDS].tolist() == [[True, True, False]]  # cat was not there in round 3
    state = patient.state()
    patient = transport(tmp_path, least=2)
    patient.load_state(json.loads(json.dumps(state)))
    assert patient.metrics() == {"fedformer/age_bob": 0.0, "fedformer/age_cat": 2.0}


def test_members_that_do_not_take_part_send_zeros_and_a_message_is_never_changed(tmp_path):
    told = Told()
    ann = transport(tmp_path, participants=("ann", "bob"), told=told)
    message(tmp_path / "bob" / "fedformer-00000001.safetensors")
    ann.exchange(1, arrays(torch.nan, sends=False))
    path = tmp_path / "ann" / "fedformer-00000001.safetensors"
    assert load_file(path)["encoders"].eq(0).all() and not load_file(path)[SENDS].any()
    before = path.read_bytes()
    assert ann.exchange(1, arrays(5.0))["encoders"][0, 0].eq(5).all() and path.read_bytes() == before
    assert told.lines == [f"{path} is kept, but this run computes other numbers now"]
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name]


def test_messages_hold_the_parameters_of_the_exchange_and_nothing_else(tmp_path):
    """Exact names and sizes; numbers and texts of the replay buffer, the goal and the seed are nowhere in them."""
    canaries = {"reward": 12.345, "goal": 345.678, "seed": 1_234_567_891}
    single = [
        config(
            **as_participant(name, tmp_path, ("ann", "bob:2"), **FEDFORMER | {"exchange": ("fedformer", "average")}),
            n_peers=n, seed=canaries["seed"], normalize_obs=(True,),
        )
        for name, n in (("ann", 1), ("bob", 2))
    ]  # fmt: skip
    with ThreadPoolExecutor(2) as pool:
        _, bob = pool.map(lambda c: trained_in(c, canaries), single)
    learner = bob.group.stacks[0].learner
    numbers = [np.array(value, kind) for value in canaries.values() for kind in (np.float32, np.float64, np.int64)]
    words = [*(x.tobytes() for x in numbers), *(str(value).encode() for value in canaries.values())]
    assert words[0] in learner.replay.data.numpy().tobytes() and words[3] in learner.replay.data.numpy().tobytes()
    sizes = {name: values.shape[1] for name, values in learner.parameters().items()}
    expected = {"fedformer": {"encoders": ("F32", [1, 2, 2, learner.critic.encoder_size]), "sends": ("BOOL", [1, 2])}}
    expected["average"] = {
        name: ("F64" if name.startswith("obs_") else "F32", [1, 2, size]) for name, size in sizes.items()
    } | {"sends": ("BOOL", [1, 2])}
    assert set(sizes) == {
        "actor", "critic", "critic_target", "log_ent_coef", "obs_mean", "obs_var", "obs_count"
    }  # fmt: skip
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    names = [f"{kind}-0000000{n}.safetensors" for kind in ("average", "fedformer") for n in (1, 2)]
    assert files == [Path(who) / name for who in ("ann", "bob") for name in names]
    for path in files:
        data = (tmp_path / path).read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        kind, number = path.stem.split("-")
        assert header.pop("__metadata__") == {
            "format": FORMAT, "participant": path.parent.name, "exchange": kind, "round": str(int(number)),
        }  # fmt: skip
        if path.parent.name == "bob":
            assert {name: (x["dtype"], x["shape"]) for name, x in header.items()} == expected[kind]
        width = {"F32": 4, "F64": 8, "BOOL": 1}
        arrays = sum(int(np.prod(x["shape"])) * width[x["dtype"]] for x in header.values())
        assert len(data) == 8 + length + arrays
        assert not [word for word in words if word in data], path


def trained_in(config: Config, canaries) -> Trainer:
    trainer = Trainer(config, env=lambda: Canary(canaries["reward"], canaries["goal"]))
    trainer.begin()
    while trainer.step < trainer.steps:
        trainer.advance()
    trainer.close()
    return trainer


# --- the command line -----------------------------------------------------------------------------------------

COMMAND = "train --env Room-v6 --n-peers 1 --sharing none --exchange fedavg --total-timesteps 100 --learning-starts 5"
MEMBERSHIP = "--federation {fed} --participant ann --participants ann bob"
REFUSALS = {
    f"{COMMAND} --federation {{fed}}": "--federation needs --participant and --participants",
    f"{COMMAND} --participant ann": "--participant needs --federation and --participants",
    f"{COMMAND} --federation {{fed}} --participant cat --participants ann bob": "--participant cat is not among",
    f"{COMMAND} --federation {{fed}} --participant ann --participants ann": "one member in all",
    f"{COMMAND} --federation {{fed}} --participant ann --participants ann Ann": "the same participant twice",
    f"{COMMAND} --federation {{fed}} --participant ann --participants ann ../x": "expected NAME or NAME:MEMBERS",
    f"{COMMAND} --federation {{fed}} --participant ann --participants ann:2 bob": "ann 2 members, but --n-peers is 1",
    f"{COMMAND} {MEMBERSHIP} --member-offset 4": "--member-offset 4 contradicts --participants, by which it is 0",
    f"{COMMAND} {MEMBERSHIP} --min-participants 3": "more than the 2 of --participants",
    f"{COMMAND} --min-participants 2": "--min-participants has no effect without --federation",
    f"train --env Room-v6 --n-peers 1 {MEMBERSHIP}": "--federation needs --exchange",
    f"{COMMAND}": "--exchange needs at least two members",
}


@pytest.mark.parametrize("words", REFUSALS)
def test_wrong_settings_of_a_federation_are_refused_in_one_line(words, tmp_path, capsys):
    line = f"{words.format(fed=tmp_path / 'fed')} --log-dir {tmp_path / 'runs'}"
    assert main(line.split()) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and REFUSALS[words] in error and not list(tmp_path.iterdir())


def test_a_participant_can_have_only_one_run(tmp_path, capsys):
    (tmp_path / "fed" / "ann").mkdir(parents=True)
    line = f"{COMMAND} {MEMBERSHIP.format(fed=tmp_path / 'fed')} --log-dir {tmp_path / 'runs'}"
    assert main(line.split()) == 2
    assert "the federation has a run of ann already" in capsys.readouterr().err and not (tmp_path / "runs").exists()
    message(tmp_path / "fed" / "dan" / "fedavg-00000001.safetensors")
    assert main(line.split()) == 2
    assert "has messages of dan, who is not among --participants" in capsys.readouterr().err


def test_a_participant_that_nobody_expects_is_reported(tmp_path):
    told = Told()
    ann = transport(tmp_path, participants=("ann", "bob"), told=told)
    for name in ("bob", "dan"):
        message(tmp_path / name / "fedformer-00000001.safetensors")
    assert ann.exchange(1, arrays())[SENDS].shape == (1, 2)
    ann.exchange(1, arrays())
    assert told.lines == [f"{tmp_path} has messages of dan, who is not among --participants"]


def test_exchanges_within_one_process_are_refused(tmp_path):
    class Nothing(peerage.Exchange):
        def after_learning(self, group, step):
            pass

    peerage.register_exchange("nothing", Nothing)
    with pytest.raises(UserError, match="--exchange nothing works within one process"):
        Trainer(config(**as_participant("ann", tmp_path, exchange=("nothing",), env="Room-v6")))


def test_members_with_an_offset_are_those_of_a_larger_group(begin):
    """Streams, and environments that take the number of the member."""
    settings = {"env": "Room-v6", "exchange_freq": 1000, **OFF_POLICY, "total_timesteps": 20}
    whole, last = (begin(config(**settings, **more), 20) for more in ({"n_peers": 3}, {"member_offset": 2}))
    for name, values in learned(whole, 2).items():
        assert torch.equal(values, learned(last, 0)[name])
    assert last.config.member_offset == 2 and whole.config.member_offset == 0
    numbered = [maker.env_args["member"] for maker in makers_of(EnvMaker("peerage.envs.metaworld:MetaWorld"), 2, 2, 3)]
    assert numbered == [3, 4, 3, 4]


RUN = dict(
    OFF_POLICY, env="Room-v6", exchange=("fedavg",), n_peers=1, sharing="none", total_timesteps=60, exchange_freq=20,
    log_freq=10, eval_freq=30, n_eval_episodes=1, max_eval_steps=20, checkpoint_freq=15, device="cpu",
)  # fmt: skip


def members(name, root, **more):
    settings = as_participant(name, root / "fed", ("ann", "bob"), **RUN)
    return {**settings, "log_dir": str(root), "exp_name": name, "verbose": 0, **more}


def test_a_run_that_was_stopped_while_waiting_resumes_bit_for_bit(tmp_path, monkeypatch, capsys):
    """Ctrl-C ends the wait of ann in the first round; she sends the same message again after the resume."""
    monkeypatch.setattr(folder_module, "SAY_AFTER", 0.0)

    class Impatient(peerage.Listener):
        def on_message(self, step, text):
            if "waits for bob" in text:
                os.kill(os.getpid(), signal.SIGINT)

    for root in (tmp_path / "whole", tmp_path / "stopped"):
        if root.name == "stopped":
            with pytest.raises(KeyboardInterrupt, match="continues from step 15"):
                peerage.train(**members("ann", root), listeners=[Impatient()])
        with ThreadPoolExecutor(1) as pool:
            bob = pool.submit(lambda root=root: peerage.train(**members("bob", root)))
            ann = root / "ann"
            run = peerage.resume(ann) if ann.exists() else peerage.train(**members("ann", root, verbose=1))
            bob.result()
        out = capsys.readouterr().out
        if root.name == "whole":
            assert f"\nfederation: ann (this run) and bob, in {root / 'fed'}\n" in out
    for name in ("ann", "bob"):
        assert_same_end(tmp_path / "whole" / name, tmp_path / "stopped" / name)
    ages = run.metrics[run.metrics["name"] == "fedavg/age_bob"]
    assert len(ages) == 6 and ages["value"].eq(0).all()


def assert_same_end(one: Path, two: Path) -> None:
    """The last checkpoints and the tables of two runs have the same bytes."""
    for name in ("metrics.csv", "evaluations.csv"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    ends = [max((run / "checkpoints").glob("step_*")) for run in (one, two)]
    assert ends[0].name == ends[1].name
    states = [load_file(end / "state.safetensors") for end in ends]
    assert states[0].keys() == states[1].keys()
    for name, values in states[0].items():
        assert torch.equal(values, states[1][name]), name


PROGRAM = "import sys; from peerage import cli, session; session.write_report = print; sys.exit(cli.main(sys.argv[1:]))"


@pytest.mark.long
def test_a_participant_that_is_killed_resumes_and_all_runs_end_with_the_same_bytes(tmp_path):
    """Three processes; one is killed by SIGKILL after its second message, and resumed while the others wait for it."""

    def folders(root):
        settings = {**FEDFORMER, **RUN, "env": "Pendulum-v1", "exchange": ("fedformer",), "log_dir": str(root)}
        return [as_participant(name, root / "fed", **settings) | {"exp_name": name, "verbose": 0} for name in THREE]

    def start(*words) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-c", PROGRAM, *map(str, words)])

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda settings: peerage.train(**settings), folders(whole)))
    processes = {}
    for name, settings in zip(THREE, folders(killed), strict=True):
        file = tmp_path / f"{name}.yaml"
        file.write_text(dump(with_settings(Config(), settings)))
        processes[name] = start("train", "--config", file)
    while not (killed / "fed" / "cat" / "fedformer-00000002.safetensors").exists():
        assert processes["cat"].poll() is None
        time.sleep(0.01)
    processes["cat"].kill()
    processes["cat"].wait()
    if not (killed / "cat" / "DONE").exists():
        assert processes["ann"].poll() is None and processes["bob"].poll() is None
        processes["cat"] = start("resume", killed / "cat")
    assert [process.wait(120) for process in processes.values()] == [0, 0, 0]
    for name in THREE:
        assert_same_end(whole / name, killed / name)
    theirs = peerage.load(killed / "ann").metrics
    assert theirs[theirs["name"].str.startswith("fedformer/age_")]["value"].eq(0).all()
