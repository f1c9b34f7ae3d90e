"""The tab *Attention*: an episode of a member step by step, the importance of its observations, and trust."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import streamlit as st

from peerage.app import curves, tables, trust_view
from peerage.app.markdown import pairs, plain
from peerage.app.runs import find, open_run
from peerage.errors import UserError
from peerage.evaluation.attention import Episode, play_episode
from peerage.evaluation.importance import Importance, importance
from peerage.runs import checkpoint
from peerage.runs.folder import RunFolder
from peerage.text import count, listing, number

MAX_STEPS = 200
"""The length at which an episode is cut, so that it is there in seconds."""
NEWEST = "newest"
SUMMARISED = {"pool": "pooling", "present": "present step"}
"""The layers that read the tokens for the output, with their names."""
T = TypeVar("T")
_one_at_a_time = threading.Lock()
"""Networks are computed for one visitor after the other."""


def show(log_dir: Path) -> None:
    """The tab."""
    names = [run.name for run in find(log_dir)]
    if not names:
        st.info(f"There are no runs in {plain(log_dir)} yet. The tab Train starts one.")
        return
    if st.session_state.get("attention-run") not in names:
        asked = st.query_params.get("run", "")
        st.session_state["attention-run"] = asked if asked in names else names[0]
    wide, left, middle, right, last = st.columns([3, 1, 1, 2, 1])
    name = str(wide.selectbox("Run", names, key="attention-run"))
    st.query_params["run"] = name
    folder = None
    try:
        folder = open_run(log_dir, name).path
        config = tables.config(folder)
        steps = list(dict.fromkeys(checkpoint.step_of(path) for path in reversed(checkpoint.checkpoints(folder))))
        best = ["best"] if config.run.keep_best else []
        member = left.selectbox("Member", range(config.n_peers), key="member")
        replica = middle.selectbox("Replica", range(config.replicas), key="replica")
        about = "The step of a checkpoint of the run (`--keep-checkpoints`)."
        which = right.selectbox("Checkpoint", [NEWEST, *best, *map(str, steps)], key="checkpoint", help=about)
        seed = last.number_input("Seed", min_value=0, max_value=2**31 - 1, key="episode-seed", help="Of the episode.")
        chosen = {"member": int(member), "replica": int(replica), "checkpoint": "" if which == NEWEST else str(which)}
        _show_member(folder, chosen, int(seed))
    except UserError as error:
        st.warning(plain(error))
    try:
        if folder is not None:
            trust_view.show(folder, name)
    except UserError as error:
        st.warning(plain(error))


# --- an episode -----------------------------------------------------------------------------------------------


def _show_member(folder: Path, chosen: dict[str, Any], seed: int) -> None:
    key = ("episode", folder, *chosen.values(), seed)
    with st.spinner("Playing an episode …"):
        episode, problem = _made(folder, key, lambda: _play(folder, chosen, seed))
    if problem:
        st.caption(plain(f"Without images: {problem}."))
    if not episode.weights:
        net = listing(sorted(set(tables.config(folder).learner.algorithm)))
        st.caption(f"The networks of this member ({plain(net)}) have no attention; PPO has it with `--net attention`.")
    where = "/".join(map(str, key[1:]))

    @st.fragment
    def step_by_step() -> None:
        last = len(episode.rewards) - 1
        step = st.slider("Step of the episode", 0, last, key=f"step/{where}") if last > 0 else 0
        _show_step(episode, int(step), where)

    step_by_step()
    _show_episode(episode, where)
    _show_importance(folder, chosen, where)


def _play(folder: Path, chosen: dict[str, Any], seed: int) -> tuple[Episode, str]:
    """An episode with images if the environment can be rendered, and otherwise the reason."""
    try:
        return play_episode(folder, **chosen, seed=seed, max_steps=MAX_STEPS, frames=True), ""
    except UserError as error:
        return play_episode(folder, **chosen, seed=seed, max_steps=MAX_STEPS), str(error)


def _made(folder: Path, key: tuple[Any, ...], make: Callable[[], T]) -> T:
    """`make()`, kept until the run has another checkpoint."""
    version = [path.name for path in checkpoint.checkpoints(folder)], RunFolder(folder).extensions()
    with _one_at_a_time:
        found: T = tables.kept(key, version, make)
    return found


def _show_step(episode: Episode, step: int, where: str) -> None:
    picture, policy = st.columns([2, 3])
    total = float(episode.rewards[: step + 1].sum())
    discrete = episode.probabilities is not None or episode.values is not None
    action = listing([f"{value:.0f}" if discrete else number(float(value)) for value in episode.actions[step]])
    with picture:
        if episode.frames is not None:
            st.image(episode.frames[step], width="stretch", alt=f"The environment at step {step}")
        end = "the episode ends here" if episode.ended else f"the episode is cut after {count(MAX_STEPS, 'step')}"
        note = f"; {end}" if step == len(episode.rewards) - 1 else ""
        reward = number(float(episode.rewards[step]))
        st.caption(f"Action {action}, reward {reward}, return so far {number(total)}{note}")
    with policy:
        _show_policy(episode, step, where)
        _show_observation(episode, step, where)
    _show_summary(episode, step, where)
    for name, weights in episode.weights.items():
        if name in SUMMARISED and weights.shape[2] == 1:
            continue
        steps = next((tokens[1] for other, tokens in episode.tokens.items() if other != name), [])
        _show_layer(name, weights[step], episode.tokens[name], steps, f"{where}/{name}")


def _show_policy(episode: Episode, step: int, where: str) -> None:
    """Probabilities, values or the normal distribution of the actions."""
    if (values := episode.probabilities if episode.probabilities is not None else episode.values) is not None:
        title = "Action probabilities" if episode.probabilities is not None else "Action values (Q)"
        names = [f"action {k}" for k in range(values.shape[1])]
        made = curves.bars({title: values[step].tolist()}, names, title)
        if episode.probabilities is not None:
            made.update_yaxes(range=[0, 1])
    else:
        mean = episode.mean if episode.mean is not None else episode.actions
        title = "Action: mean and standard deviation" if episode.std is not None else "Action"
        spread = None if episode.std is None else episode.std[step].tolist()
        made = curves.bars({title: mean[step].tolist()}, [f"action {k}" for k in range(mean.shape[1])], title)
        made.update_traces(error_y=None if spread is None else {"type": "data", "array": spread})
    made.update_layout(height=220)
    curves.show(made, f"policy/{where}", alt=f"{title} at step {step}")


def _show_observation(episode: Episode, step: int, where: str) -> None:
    """The numbers of an observation as bars; those of a window as a matrix of numbers and steps."""
    if episode.window is None:
        made = curves.bars({"observation": episode.obs[step].tolist()}, episode.names, "Observation")
        made.update_layout(height=220)
    else:
        steps, numbers = episode.window
        values = episode.obs[step].reshape(len(steps), len(numbers)).T
        most = max(float(np.abs(values).max()), 1e-9)
        made = curves.heatmap(values, numbers, steps, limits=(-most, most), title="Observation: past steps")
        made.update_xaxes(tickangle=0)
    curves.show(made, f"obs/{where}", alt=f"The observation at step {step}")


def _show_summary(episode: Episode, step: int, where: str) -> None:
    """Where the output looks: a row for each layer and head. Of a layer of self-attention over the steps of a window it
    is the row of the present step."""
    rows: list[np.ndarray] = []
    labels: list[str] = []
    for name, weights in episode.weights.items():
        past = attends_to_past(episode, name)
        if name == "number.pool" or not (past or (name in SUMMARISED and weights.shape[2] == 1)):
            continue
        rows += list(weights[step, :, -1])
        layer = SUMMARISED.get(name, f"self-attention {name}")
        labels += [f"{layer}, head {k}" for k in range(weights.shape[1])]
        keys, title = episode.tokens[name][1], attention_title(episode, name)
    if rows:
        made = curves.heatmap(np.stack(rows), labels, keys, limits=(0.0, 1.0), title=title)
        made.update_xaxes(title="step" if past else "", tickangle=0 if past else None)
        curves.show(made, f"attention/{where}", alt=f"{title}: layers and heads, and tokens, at step {step}")


def attends_to_past(episode: Episode, name: str) -> bool:
    """Whether the tokens of a layer are the steps of a window."""
    return episode.window is not None and episode.tokens[name][1] == episode.window[0]


def attention_title(episode: Episode, name: str) -> str:
    """What the output attends to, according to a layer."""
    return f"Attention to {'past steps' if attends_to_past(episode, name) else 'features'}"


def _show_layer(
    name: str, weights: np.ndarray, tokens: tuple[list[str], list[str]], steps: list[str], where: str
) -> None:
    """The weights of one layer in one step: `[heads, queries, keys]`, or of `number.pool` `[steps, heads, 1, keys]`,
    where `steps` are the labels of the steps of the window."""
    st.markdown(f"**{plain(layer_title(name))}**")
    queries, keys = tokens
    if weights.ndim == 4:  # a query for each step
        weights, queries = weights[:, :, 0].swapaxes(0, 1), steps
    heads = [f"head {k}" for k in range(len(weights))]
    for some in pairs(range(len(heads))):
        for column, k in zip(st.columns(2), some):
            with column:
                made = curves.heatmap(weights[k], queries, keys, limits=(0.0, 1.0), title=heads[k])
                curves.show(made, f"weights/{where}/{k}", alt=f"Attention weights of {name}, {heads[k]}")


def layer_title(name: str) -> str:
    """What a layer does, in words."""
    known = {
        "pool": "Pooling: each query attends to the features",
        "number.pool": "Pooling: each step attends to its numbers",
    }
    return known.get(name, f"Self-attention, layer {name}: rows attend to columns")


def _show_episode(episode: Episode, where: str) -> None:
    """The weights of the last layer over the whole episode, mean over heads and queries."""
    name = next((name for name in SUMMARISED if name in episode.weights), None)
    if name is None or len(episode.rewards) < 2:
        return
    weights = episode.weights[name].mean(axis=(1, 2))  # [T, keys]
    steps = [str(step) for step in range(len(weights))]
    title = f"{attention_title(episode, name)} during the episode"
    made = curves.heatmap(weights.T, episode.tokens[name][1], steps, title=title)
    made.update_xaxes(title="step of the episode", tickangle=0, nticks=10)
    curves.show(made, f"pool/{where}", alt=title)


# --- importance -----------------------------------------------------------------------------------------------


def _show_importance(folder: Path, chosen: dict[str, Any], where: str) -> None:
    st.subheader("Importance of the observation")
    about = "More episodes take longer and are more exact."
    episodes = st.number_input("Episodes", 1, 100, 3, key=f"episodes/{where}", help=about, width=160)
    if not st.button("Compute", key=f"compute/{where}") and not st.session_state.get(f"computed/{where}"):
        st.caption(
            "Attention weights say where the network looks. Occlusion and gradient say what its decisions depend on. "
            "The computation plays episodes and takes some seconds."
        )
        return
    st.session_state[f"computed/{where}"] = True
    key = ("importance", folder, *chosen.values(), int(episodes))
    with st.spinner("Computing …"):
        found = _made(folder, key, lambda: importance(folder, **chosen, episodes=int(episodes), deletion=False))
    titles = importance_titles(found)
    for column, (measure, title) in zip(st.columns(len(titles)), titles.items()):
        with column:
            made = curves.ranking(found.measures[measure], found.names, title)
            curves.show(made, f"importance/{measure}/{where}", alt=f"{title} of each feature")
    parts = [f"{pair} {number(value)}" for pair, value in found.correlations.items()]
    states = f"{count(found.states, 'state')} of {count(found.episodes, 'episode')}"
    st.caption(plain(f"From {states}. Rank correlations over the features: {'; '.join(parts)}."))


def importance_titles(found: Importance) -> dict[str, str]:
    """The measures that exist, with the titles of their charts."""
    titles = {
        "weight": "Mean attention weight",
        "occlusion": f"Occlusion ({found.unit})",
        "gradient": "Gradient per standard deviation",
    }
    return {measure: titles[measure] for measure in found.measures}
