"""The comparisons of docs/results/comparisons.md: questions, their trials, and the commands that train the runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks import open_questions, peer_learning, trust_lies, trust_lunarlander, trust_probes
from benchmarks.results_numbers import EXPERT, LATE, LEARNERS, RETURN, TRAINING, TURN, Trial
from peerage.config.file import load


@dataclass(frozen=True)
class Question:
    title: str
    page: str
    """The detailed page, relative to docs/results."""
    trials: tuple[Trial, ...]
    note: str = ""


AGAIN = (
    "The runs of `benchmarks.peer_learning`, except those of in-context trust, were repeated for this page; "
    "[peer-learning.md](peer-learning.md) describes earlier runs with slightly different numbers."
)
SINGLE = (
    "For single agents, the value of a replica is that of one agent; for groups it is the mean of 2 or 4 members, "
    "which varies less."
)


def _learning(family: str, title: str, names: str, *measures: str) -> Trial:
    ways = {peer_learning.FOLDER / name: peer_learning.EXPERIMENTS[name].label for name in names.split()}
    return Trial(family, title, "python -m benchmarks.peer_learning run", ways, measures or (RETURN,))


def _lander(name: str, title: str, *names: str) -> Trial:
    ways = {trust_lunarlander.FOLDER / n: trust_lunarlander.LABELS[n] for n in names}
    return Trial(name, title, "python -m benchmarks.trust_lunarlander run --only", ways)


# --- trust ----------------------------------------------------------------------------------------------------

TRUST = "transformer-trust.md"
KINDS = ("td-critic", "td", "hybrid", "in-context", "in-context-critic")


def _probes(probe: str, variants: Iterable[str], *measures: str, name: str = "") -> Iterable[Trial]:
    for env, title in trust_probes.ENVS.items():
        ways = {trust_probes.Experiment(env, probe, v).folder: trust_probes.LABELS[v] for v in variants}
        maker = f"python -m benchmarks.trust_probes run --replicas {5 if env == 'room' else 3} --only"
        yield Trial(f"{name}{probe}-{env}", f"{title} ({probe})", maker, ways, measures)


def _seen(title: str, probe: str, measure: str, *more: Trial) -> Question:
    note = f"The probe “{probe}” has {trust_probes.PROBES[probe]}. “uniform” chooses advisers "
    note += "uniformly at random."
    note += f" {AGAIN}" if more else ""
    return Question(title, TRUST, (*_probes(probe, trust_probes.VARIANTS, measure, RETURN), *more), note)


def _worth() -> Question:
    probes = [trial for probe in trust_probes.PROBES for trial in _probes(probe, KINDS, TRAINING, name="worth-")]
    lander = _lander("worth-100k", "LunarLander-v3 (100,000 steps)", "td", "hybrid", "in-context")
    note = "Training return is the return with advice during the training; the tables above show the return alone."
    return Question("Which kind of trust is worth more?", TRUST, (*probes, lander), note)


def _lies() -> Question:
    def trial(name: str, title: str, ways: dict[str, str], *measures: str) -> Trial:
        folders = {trust_lies.FOLDER / run: label for run, label in ways.items()}
        return Trial(name, title, "python -m benchmarks.trust_lies run --only", folders, measures)

    kinds = {"uniform": "uniform", "td": "td", "in-context": "in-context"}
    trials = [
        trial(f"lies-{place}", f"Room-v6 ({title})", {f"{place}-{kind}": label for kind, label in kinds.items()}, LATE,
              RETURN)
        for place, title in (
            ("liars", "three colluding advisers"), ("silence", "three colluding advisers, half of the answers dropped")
        )
    ]  # fmt: skip
    trials += [
        trial(f"cost-{kind}", f"Room-v6 ({kind})", {f"{p}-{kind}": label for p, label in trust_lies.LABELS.items()},
              TRAINING)
        for kind in ("td", "in-context")
    ]  # fmt: skip
    note = "Two learners, an expert, and three colluding advisers (`colluding:a`), which give the same wrong advice in "
    note += "every state; half of the answers are dropped by `--perturb dropped_advice=0.5`. The colluding advisers do "
    note += "not adapt to the trust in them and do not change during the run; stronger attacks exist."
    return Question("Is trust robust to wrong and missing advice?", "../robustness.md", tuple(trials), note)


# --- the paper's open questions -------------------------------------------------------------------------------


def _scale(name: str) -> float:
    return 0.06 if name == "size-lunarlander" else 0.3


def _open(question: str) -> Question:
    title, presets = open_questions.QUESTIONS[question]
    parts: dict[str, list[open_questions.Experiment]] = {}
    for preset in presets:
        name = preset.rsplit("-", 1)[0] if question == "size" else preset
        parts.setdefault(name, []).append(open_questions.Experiment(preset, False))
    trials = []
    for name, groups in parts.items():
        maker = f"python -m benchmarks.open_questions run --scale {_scale(name)} --only"
        ways = {groups[0].counterpart.folder: "single agents"}
        ways |= {g.folder: f"group of {g.name.rsplit('-', 1)[1]}" if question == "size" else "group" for g in groups}
        what = "" if question == "size" else f" ({name.rsplit('-', 1)[0].replace('-', ' ')})"
        measures = (LEARNERS,) if question == "frozen" else (RETURN,)
        trials.append(Trial(name, load(f"open-{groups[0].name}").env + what, maker, ways, measures))
    return Question(title, "open-questions.md", tuple(trials), _note(question))


def _note(question: str) -> str:
    """The limitations of the results of an open question."""
    if question == "size":
        lander = open_questions.Experiment("size-lunarlander-2", False).settings(3, _scale("size-lunarlander"))
        steps = int(lander[lander.index("--total-timesteps") + 1])
        return (
            "The value of a replica is the mean of 8 single agents for the reference, and the mean of its 2 to 32 "
            "members for a group. Means of more members vary less, regardless of learning, which affects "
            f"P(improvement) and the width of intervals. LunarLander-v3 was trained for only {steps:,} steps, which "
            "are a few episodes: its rows describe the start of learning only."
        )
    if question == "frozen":
        return (
            "The frozen member of “frozen members” comes from a single training (`peerage train --config "
            "open-pretrain-room`) and is the same in all replicas and on both sides, so the intervals do not include "
            "the variation between experts. Its own return is not counted."
        )
    return ""


QUESTIONS = (
    Question("Does advice help against single agents?", "peer-learning.md", (
        _lander("lander-100k", "LunarLander-v3 (4 members)", *trust_lunarlander.RUNS),
        _learning("room", "Room-v21 (2 members)", "room-single room-random room-early room-paper room-ours"),
        _learning("lander", "LunarLander-v3 (our settings)", "lander-single lander-peer lander-paper"),
    ), f"{AGAIN} {SINGLE}"),
    _seen("Does the rule find the expert?", "plain", LATE, _learning(
        "choice", "Room-v21 (50,000 steps)", "choice-paper choice-ours in-context-choice", EXPERT, RETURN)),
    _seen("Does trust detect advisers that change their role?", "turncoat", TURN),
    _seen("Does trust detect advice that is right in one region only?", "regional", LATE),
    _lies(),
    _worth(),
    *(_open(question) for question in open_questions.QUESTIONS),
)  # fmt: skip
