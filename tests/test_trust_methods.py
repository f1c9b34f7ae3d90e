"""Kinds of trust are described in one place. A toy kind is registered with public names and used in every part."""

from __future__ import annotations

import inspect
import io
import shutil
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pytest
import torch

import peerage
from peerage import cli
from peerage.config.file import dump, from_dict, validate
from peerage.config.methods import LEARNERS, TRUST
from peerage.config.plain_yaml import parse
from peerage.learners.defaults import resolve_advice
from peerage.reports import heatmaps
from peerage.reports.report import write_report
from peerage.runs.checkpoint import checkpoints
from peerage.runs.tables import COLUMNS, CsvLog, has_rows, read_advice
from peerage.statistics.advice_log import trust_curves, trust_in_use
from peerage.training.machine import pick_threads
from peerage.training.trainer import Trainer


@dataclass(frozen=True)
class ToySettings:
    """Trust by the latest rewards."""

    toy_rate: float = 0.5
    """Weight of the latest reward."""


class Toy(peerage.Signal):
    def __init__(self, context):
        self.rate = context.config.toy.toy_rate
        self.value = torch.zeros(context.group.M, context.n_advisers)

    def observe(self, transition):
        at = torch.arange(len(self.value)), transition.followed
        self.value[at] += self.rate * (transition.rewards - self.value[at])

    def values(self, obs, suggestions, due, step):
        return {"toy_value": self.value}

    def report(self):
        return {"toy_value": self.value, "toy_spread": self.value.std(dim=1, keepdim=True).expand_as(self.value)}

    def metrics(self):
        return {"trust/toy_spread": self.value.std(dim=1)}

    def state(self):
        return {"value": self.value}

    def load_state(self, state):
        self.value = state["value"]


def register() -> None:
    peerage.register_trust(
        "toy", Toy, ToySettings, about="latest rewards", columns={"toy_value": "mean latest reward"},
        asker_columns={"toy_spread": "spread of latest rewards"}, uses_threads=True,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def registered(registries):
    register()


SETTINGS = dict(
    env="Room-v6", n_peers=2, advisers=("expert", "random"), replicas=2, total_timesteps=120, learning_starts=(5,),
    batch_size=(8,), buffer_size=(100,), net_arch=((8,),), eval_freq=0, log_freq=20, checkpoint_freq=40, threads=1,
    device="cpu", verbose=0, trust="toy", follow_steps=3,
)  # fmt: skip


def train(place: Path, name: str, **changes) -> peerage.Run:
    settings = {**SETTINGS, **changes}
    rate = {"toy_rate": 0.25} if settings["trust"] == "toy" else {}
    return peerage.train(exp_name=name, log_dir=str(place), **rate, **settings)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> peerage.Run:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(TRUST, "methods", dict(TRUST.methods))
        register()
        return train(tmp_path_factory.mktemp("toy"), "whole")


def test_the_toy_is_short():
    lines = [x for kind in (ToySettings, Toy, register) for x in inspect.getsource(kind).splitlines() if x.strip()]
    assert len(lines) < 40
    assert len([x for x in inspect.getsource(Toy).splitlines() if x.strip()]) < 30


def test_an_extension_warns_of_methods_that_say_nothing_about_schedules(tmp_path, monkeypatch):
    """A class that declares a schedule is extended only on request, and one that declares none without a warning."""

    class Heard(peerage.Listener):
        def on_message(self, step, text):
            said.append(text)

    said: list[str] = []
    more = {"env": "Pendulum-v1", "advisers": ("random",)}  # SAC has no schedule
    run = train(tmp_path, "run", replicas=1, total_timesteps=40, **more)
    peerage.resume(run, total_timesteps=60, listeners=[Heard()])
    assert [text for text in said if "schedules" in text] == [
        "Toy has no method `schedules`: if it depends on the length of the run, the result differs from that of a run "
        "with 60 steps from the start"
    ]
    monkeypatch.setattr(Toy, "schedules", lambda self: ["the rate decays"])
    with pytest.raises(peerage.UserError, match="the rate decays"):
        peerage.resume(run, total_timesteps=80)
    monkeypatch.setattr(Toy, "schedules", lambda self: [])
    said.clear()
    peerage.resume(run, total_timesteps=80, listeners=[Heard()])
    assert not any("schedules" in text for text in said)


# --- columns ------------------------------------------------------------------------------------------------------


def test_its_columns_follow_those_of_every_run(run):
    header = (run.folder / "advice.csv").read_text().splitlines()[0].split(",")
    assert header == [*COLUMNS["advice.csv"], "toy_value", "toy_spread"]
    late = run.advice[run.advice["step"] > 20]
    assert late["toy_value"].notna().all() and late["toy_value"].nunique() > 10
    spread = late.groupby(["step", "replica", "asker"])["toy_value"].std()
    reported = late.groupby(["step", "replica", "asker"])["toy_spread"].first()
    pd.testing.assert_series_equal(spread, reported, check_names=False, rtol=1e-5)
    assert late["trust_td"].isna().all() and late["agent_value"].notna().all()


def test_other_runs_have_the_columns_as_before(tmp_path):
    run = train(tmp_path, "td", trust="td", total_timesteps=40)
    assert list(run.advice.columns) == list(COLUMNS["advice.csv"])
    assert (run.folder / "advice.csv").read_text().startswith(
        "step,replica,asker,adviser,chosen,score,trust_td,trust_attention,agent_value,critic,confidence,omega,"
        "in_context\n"
    )


def test_a_column_that_was_not_registered_is_an_error(tmp_path):
    log = CsvLog(tmp_path, ["toy_value"])
    with pytest.raises(ValueError, match="no column 'toy_valu': a kind of trust names its columns"):
        log.on_advice(1, [{"replica": 0, "asker": "member-0", "adviser": "expert", "chosen": 1, "toy_valu": 1.0}])
    assert not has_rows(tmp_path)
    log.on_advice(1, [{"replica": 0, "asker": "member-0", "adviser": "expert", "chosen": 1, "toy_value": 1.5}])
    log.close()
    assert has_rows(tmp_path) and read_advice(tmp_path)["toy_value"].tolist() == [1.5]


@pytest.mark.parametrize("column", ["score", "agent_value", "two words", "../x"])
def test_names_of_columns_are_checked(column):
    with pytest.raises(ValueError, match="cannot be a column of"):
        peerage.register_trust("other", Toy, columns={column: "title"})
    assert "other" not in TRUST


# --- reports ------------------------------------------------------------------------------------------------------


def test_reports_show_it(run):
    report = (run.folder / "report.html").read_text()
    for words in ("Mean latest reward", "Spread of latest rewards", "Trust is the column toy_value."):
        assert words in report, words
    assert "confidence in the transformer" not in report.lower()
    found = trust_in_use(run.advice)
    assert (found.name, found.title) == ("toy_value", "mean latest reward")
    assert "Trust (mean latest reward)" in heatmaps.trust_heatmaps(run.advice).caption
    titles = [axes.get_title("left") for axes in heatmaps.components_matrix(run.advice).figure.axes]
    assert [title for title in titles if title] == ["Mean latest reward", "Agent value", "Critic"]
    curves = trust_curves(run.metrics, run.advice)
    assert [(title, in_advice) for title, _, in_advice in curves] == [("spread of latest rewards", True)]
    from_advice = trust_curves(run.metrics.iloc[:0], run.advice)[0][1]
    pd.testing.assert_frame_equal(
        curves[0][1].reset_index(drop=True), from_advice.reset_index(drop=True), check_like=True, rtol=1e-5
    )


def test_a_run_of_an_unknown_kind_can_be_read(run, tmp_path, monkeypatch):
    """Another process, which did not register it, shows the columns by their names."""
    monkeypatch.delitem(TRUST.methods, "toy")
    assert read_advice(run.folder)["toy_value"].notna().any()
    assert trust_in_use(run.advice).name == "score"
    shutil.copytree(run.folder, tmp_path / "copy")  # other tests read the report
    report = write_report(tmp_path / "copy").read_text()
    assert "Toy value" in report and "Toy spread" in report and "Mean latest reward" not in report


def test_loggers_get_its_columns(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(tmp_path, "logged", use_tensorboard=True, total_timesteps=40)
    names = EventAccumulator(str(run.folder / "tensorboard")).Reload().Tags()["scalars"]
    assert "advice_toy_value/replica-0/member-0/expert" in names
    assert "trust/toy_spread/replica-1/member-1" in names
    assert not [name for name in names if name.startswith("advice_toy_spread")]  # a metric already


# --- configuration ------------------------------------------------------------------------------------------------


def test_it_appears_in_the_help_and_in_yaml():
    with redirect_stdout(io.StringIO()) as out:
        assert cli.main(["train", "--help"]) == 0
    text = " ".join(out.getvalue().split())
    for words in ("hybrid,toy}", "; toy: latest rewards.", "toy: Trust by the latest rewards.", "--toy-rate X Weight"):
        assert words in text, words
    config = validate(from_dict(parse("advice: {trust: toy}\ntoy: {toy_rate: 0.75}\n", "test")))
    assert config.advice.trust == "toy" and config.toy.toy_rate == 0.75
    assert from_dict(parse(dump(config), "test")) == config


def test_its_description_sets_the_other_terms_and_threads(monkeypatch):
    config = from_dict(parse("advice: {trust: toy}\n", "test"))
    resolved = resolve_advice(config.advice)
    assert resolved.use_critic and resolved.use_agent_values
    alone = resolve_advice(from_dict(parse("advice: {trust: in-context}\n", "test")).advice)
    assert not alone.use_critic and not alone.use_agent_values
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(3)), raising=False)
    assert pick_threads(config) == 3
    assert pick_threads(from_dict(parse("advice: {trust: toy, sharing: none}\n", "test"))) == 1
    assert pick_threads(from_dict(parse("advice: {trust: in-context}\n", "test"))) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--trust td --toy-rate 0.1", "--toy-rate is for --trust toy, but this is --trust td"),
        ("--trust toi", "did you mean 'toy'"),
        ("--trust toy --no-use-trust", "has no effect with --no-use-trust"),
    ],
)
def test_unsupported_combinations_give_a_one_line_error(capsys, words, message):
    assert cli.main(["train", "--env", "Room-v6", *words.split()]) == 2
    assert message in capsys.readouterr().err


def test_what_a_kind_needs_and_reports_is_checked_before_anything_is_written(tmp_path, monkeypatch):
    described = {"columns": {"toy_value": "value"}, "needs": ("action_value",)}
    peerage.register_trust("picky", Toy, ToySettings, part="toy", **described)
    with pytest.raises(peerage.UserError, match=r"trust=.picky. reports 'toy_spread'"):
        train(tmp_path, "picky", trust="picky")
    monkeypatch.setitem(LEARNERS.methods, "dqn", replace(LEARNERS["dqn"], has_action_value=False))
    with pytest.raises(peerage.UserError, match=r"trust=.picky. needs Q-functions, and dqn has none"):
        train(tmp_path, "picky", trust="picky")
    assert not list(tmp_path.iterdir())


# --- kill and resume ----------------------------------------------------------------------------------------------


class Stop(Exception):
    pass


def test_it_resumes_after_a_kill(run, tmp_path, monkeypatch):
    advance = Trainer.advance

    def stops(self, **kwargs):
        if self.step == 93:
            raise Stop
        return advance(self, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "advance", stops)
        with pytest.raises(Stop):
            train(tmp_path, "killed")
    assert len(checkpoints(tmp_path / "killed")) == 2
    resumed = peerage.resume(tmp_path / "killed")
    for name in ("metrics.csv", "advice.csv"):
        assert (resumed.folder / name).read_bytes() == (run.folder / name).read_bytes()
