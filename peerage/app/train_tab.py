"""The tab *Train*: start a training, watch, stop and resume one."""

from __future__ import annotations

import shlex
from pathlib import Path

import streamlit as st

from peerage.app import curves, form, processes, tables
from peerage.app.form import Entry
from peerage.app.markdown import pairs, plain
from peerage.app.runs import find, open_run, version_of
from peerage.config.fields import describe_interval
from peerage.config.flags import Flag
from peerage.config.presets import describe
from peerage.errors import UserError
from peerage.reports import charts
from peerage.reports.heatmaps import capital
from peerage.reports.report import status_text
from peerage.runs.folder import RunFolder
from peerage.runs.progress import progress, update_cycle
from peerage.statistics import summaries
from peerage.text import count, duration, number, one_line

SECONDS = 2.0
"""Time between two looks at a training, per megabyte of its tables: the page takes a few percent of a core."""
MOST_SECONDS = 30.0
LINES = 12
"""Lines of the output of a process that are shown."""
MOST_METRICS = 6
"""Charts of metrics that are shown without asking."""


def show(log_dir: Path) -> None:
    """The tab."""
    names = _names(log_dir)
    watched, new = st.columns([3, 2], gap="large") if names else (None, st.container())
    if watched is not None:
        with watched:
            _watch(log_dir, names)
    with new:
        _new(log_dir)


# --- a new training -------------------------------------------------------------------------------------------


def _new(log_dir: Path) -> None:
    st.subheader("New training")
    preset = str(
        st.selectbox(
            "Preset",
            form.presets(),
            format_func=lambda name: name or "none: the default settings",
            help="An experiment with a name; `peerage presets` lists all. Its settings fill the form.",
            key="preset",
        )
    )
    if preset:
        st.caption(describe(preset))
    base = form.base_config(preset)
    entries: dict[str, Entry] = {}
    for pair in pairs(form.important_flags()):  # rows, whose order stays on a narrow page
        for column, each in zip(st.columns(2), pair):
            with column:
                entries[each.name] = _widget(each, form.entry_of(each, base), preset)
    for title, flags in form.flags_by_section().items():
        with st.expander(f"{capital(title)} ({count(len(flags), 'more setting')})"):
            for each in flags:
                entries[each.name] = _widget(each, form.entry_of(each, base), preset)
    try:
        config = form.entries_to_config(base, entries)
        planned = RunFolder.plan(log_dir, None, form.proposed_name(config, preset)).path.name
        given = st.text_input("Name of the run", placeholder=planned, help="The name of its folder.", key="new-name")
        name = given.strip() or planned
        RunFolder.plan(log_dir, name, name)
        config = form.named(config, str(log_dir), name)
    except UserError as error:
        st.error(plain(error))
        return
    st.caption("The configuration and the command that the button runs")
    st.code(form.yaml_of(config), language="yaml")
    st.code(shlex.join(processes.train_command(log_dir, name)), language="bash", wrap_lines=True)
    if st.button("Start training", type="primary", key="start"):
        try:
            processes.start(config, name)
        except (UserError, OSError) as error:
            st.error(plain(error))
            return
        st.session_state["started"] = name
        st.rerun()


def _widget(of: Flag, entry: Entry, preset: str) -> Entry:
    """The widget of a setting. The key contains the preset, so that another preset fills the form again."""
    label, key = of.name.replace("_", " "), f"{preset}/{of.name}"
    about = f"`{of.option}`: {plain(of.help)}"
    if of.setting.interval:
        about += plain(f" Permitted: {describe_interval(of.setting.interval)}.")
    if isinstance(entry, bool):
        return st.checkbox(label, value=entry, key=key, help=about)
    if (known := form.choices(of)) is not None:
        options = list(dict.fromkeys([entry, *known]))
        options = known if entry in known else options
        found = st.selectbox(
            label,
            options,
            index=options.index(entry),
            format_func=lambda value: value or "default",
            accept_new_options=True,
            key=key,
            help=about,
        )
        return found or ""
    return st.text_input(label, value=entry, placeholder=of.default_text or "default", key=key, help=about)


# --- an existing one ------------------------------------------------------------------------------------------


def _names(log_dir: Path) -> list[str]:
    return [*processes.pending(log_dir), *(run.name for run in find(log_dir))]


def _watch(log_dir: Path, names: list[str]) -> None:
    st.subheader("Runs")
    if (started := st.session_state.pop("started", None)) in names:
        st.session_state["watch"] = started
    if st.session_state.get("watch") not in names:
        asked = st.query_params.get("run", "")
        st.session_state["watch"] = asked if asked in names else names[0]
    name = str(st.selectbox("Run", names, key="watch", help=f"The runs in {log_dir}, the newest first."))
    st.query_params["run"] = name
    folder = log_dir / name
    active = processes.state_of(folder).active if name in processes.pending(log_dir) else _is_active(log_dir, name)
    every = pause(folder)

    @st.fragment(run_every=every if active else None)
    def live() -> None:
        try:
            now = _show_run(log_dir, name)
        except (UserError, OSError) as error:
            st.error(plain(one_line(error)))
            now = False
        if now != active or pause(folder) > 2 * every:
            st.rerun()  # with another clock, or without it

    live()


def pause(folder: Path) -> float:
    """The time until the next look at a training, in seconds."""
    megabytes = sum(size for _, size, _ in version_of(folder)) / 1e6
    return min(MOST_SECONDS, SECONDS * (1 + megabytes))


def _is_active(log_dir: Path, name: str) -> bool:
    try:
        return processes.state_of(open_run(log_dir, name).path).active
    except UserError:
        return False


def _show_run(log_dir: Path, name: str) -> bool:
    """Status, buttons and curves of a run. Returns whether a process works on it."""
    folder = log_dir / name
    state = processes.state_of(folder)
    if folder.exists():
        folder = open_run(log_dir, name).path
        _show_status(folder, state)
    elif state.kind == "refused":
        st.error(plain(state.line))
    else:
        st.info("Starting …")
    _buttons(log_dir, folder, state)
    if folder.exists():
        _show_curves(folder, name)
    if lines := processes.output_of(folder):
        with st.expander("Output"):
            st.code("\n".join(lines[-LINES:]), language=None, wrap_lines=True)
    return state.active


def _show_status(folder: Path, state: processes.State) -> None:
    run, config = RunFolder(folder), tables.config(folder)
    done = progress(folder, config.steps, update_cycle(config))
    if state.kind == "training":
        members = config.replicas * config.n_peers
        speed = "" if done.rate is None else f", {done.rate * members:,.0f} member-steps/s"
        left = "" if done.seconds_left is None else f", {duration(done.seconds_left)} left"
        st.progress(done.share, f"TRAINING: step {done.step:,} of {done.total:,} ({done.share:.0%}){speed}{left}")
        return
    status, line = run.status()
    step = line.get("step")
    at = step if isinstance(step, int) else done.step
    share = min(1.0, max(0, at) / max(1, done.total))
    if state.kind == "starting":
        st.progress(share, f"STARTING: from step {at:,} of {done.total:,}")
    elif state.kind == "refused":
        st.error(plain(state.line))
    elif state.kind == "lost":
        st.warning(
            f"The training is not running on this machine and has not ended as it should: it was killed after step "
            f"{done.step:,} of {done.total:,}, or runs on another machine."
        )
    else:
        text, kind = status_text(run)
        box = {"done": st.success, "failed": st.error}.get(kind, st.warning)
        box(plain(f"{status} at step {at:,} of {done.total:,}. {text}"))
    if state.kind == "reporting":
        st.caption("The report is being drawn.")


def _buttons(log_dir: Path, folder: Path, state: processes.State) -> None:
    ended = folder.exists() and RunFolder(folder).status()[0] != "DONE"
    beside, about = st.container(horizontal=True), "The training writes a checkpoint first."
    if state.kind in ("starting", "training") and beside.button("Stop", key="stop", help=about):
        st.toast("The training writes a checkpoint and ends." if processes.stop(folder) else "It has ended already.")
    if not state.active and ended and beside.button("Resume", key="resume", help=_command_of_resume(folder)):
        try:
            processes.resume(log_dir, folder)
        except (UserError, OSError) as error:
            st.error(plain(error))
        else:
            st.rerun()


def _command_of_resume(folder: Path) -> str:
    return f"Runs `{shlex.join(processes.resume_command(folder))}`"


def _show_curves(folder: Path, name: str) -> None:
    metrics, evaluations = tables.metrics(folder), tables.evaluations(folder)
    greedy = summaries.member_values(evaluations, "return")
    training = summaries.metric(metrics, "train/return")
    if len(greedy):
        last = greedy[greedy["step"] == greedy["step"].max()]["value"].mean()
        st.caption(f"Last evaluation: mean return {number(float(last))}")
    titles = {"Evaluation return": greedy, "Training return": training}
    shown = {title: values for title, values in titles.items() if len(values)}
    for column, (title, values) in zip(st.columns(max(1, len(shown))), shown.items()):
        with column:
            _curve(values, title, f"{name}/{title}")
    others = [str(each) for each in metrics["name"].unique() if each not in ("train/return", "train/length")]
    usual = [each for each in others if each.startswith("loss/")][:MOST_METRICS]
    if not others:
        st.caption("The first numbers appear after the first rows of the log (`--log-freq`).")
        return
    about = "docs/run-folder.md lists them."
    names = st.multiselect("Metrics", others, default=usual, key=f"metrics/{name}", help=about)
    for pair in pairs(names):
        for column, each in zip(st.columns(2), pair):
            with column:
                _curve(summaries.metric(metrics, each), each, f"{name}/{each}")


def _curve(values: object, title: str, key: str) -> None:
    lines, caption = charts.lines(values)  # type: ignore[arg-type]
    if lines:
        curves.show(curves.figure(lines, "", title), f"curve/{key}", alt=f"{title}: {caption}")

