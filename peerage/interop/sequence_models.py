"""Loads Decision Transformers by name: folders of Hugging Face, and members of offline runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from peerage.errors import UserError
from peerage.interop.hf_dt import is_hf, read_hf, write_hf
from peerage.interop.pretrained import SavedRun, parse_spec
from peerage.interop.single import space_of
from peerage.learners.dt import DT
from peerage.offline.model import SequenceModel
from peerage.offline.prepared import preprocessing_of
from peerage.offline.trajectories import load_data


def load_sequence_model(spec: str) -> SequenceModel:
    """The Decision Transformer `FOLDER[:MEMBER][@best|@STEP]`: a folder of Hugging Face, or the member of a run (by
    default 0, in replica 0) at a checkpoint (by default the newest). Raises UserError if there is none."""
    path, member, which = parse_spec(spec)
    if not path.is_dir():
        raise UserError(f"no Decision Transformer at {spec!r}: there is no such folder")
    if is_hf(path):
        if member:
            raise UserError(f"{path} is a folder with a single model: remove :{member}")
        if which:
            raise UserError(f"{path} is a folder without checkpoints: remove @{which}")
        return read_hf(path)
    return _member(path, member, 0, which)


def _member(path: Path, member: int, replica: int, which: str) -> SequenceModel:
    """A member of a run at a checkpoint (empty: the newest)."""
    saved = SavedRun(path, which)
    observation_space, action_space, _ = saved.spaces()
    learner = saved.learner(member, replica, space_of(observation_space, action_space))
    if not isinstance(learner, DT):
        algorithm = saved.members[member].algorithm
        raise UserError(f"{path}: member {member} learns with {algorithm} and is not a Decision Transformer")
    return SequenceModel(learner.net, learner.conditioned(1).preprocessing, saved.config.env, saved.config.env_args)


def export_hf(
    source: Path, member: int = 0, replica: int = 0, out: Path | None = None, which: str = "", data: str = ""
) -> Path:
    """Write a Decision Transformer as a folder that `transformers.DecisionTransformerModel.from_pretrained` opens.

    `source`: a run, of which `member` in `replica` at the checkpoint `which` (`best` or a step; empty: the newest) is
    written; or a folder of Hugging Face, which is completed by the statistics of the dataset `data`. `out`: by default
    `<run>/export/member-<i>-replica-<r>[-<which>]`. Returns the path. Raises UserError if it exists, if the source is
    no Decision Transformer, and for `data` with a run, which has its statistics.
    """
    source = Path(source)
    if is_hf(source):
        if member or replica or which:
            raise UserError(f"{source} is a folder with a single model: remove --member, --replica and --checkpoint")
        if out is None:
            raise UserError("--out FOLDER is missing")
        return write_hf(_completed(source, data) if data else read_hf(source), out)
    if data:
        raise UserError("--stats-from has no effect on a run, which has the statistics of its data: remove it")
    name = f"member-{member}-replica-{replica}{f'-{which}' if which else ''}"
    return write_hf(_member(source, member, replica, which), source / "export" / name if out is None else Path(out))


def _completed(folder: Path, name: str) -> SequenceModel:
    """A model of Hugging Face with the statistics of a dataset. Raises UserError if they do not fit."""
    data = load_data(name)
    low, high = (None, None) if data.source.n_actions else (data.source.low, data.source.high)
    found = preprocessing_of(data, int(data.lengths.max()), low, high)
    return replace(read_hf(folder, found), env=data.source.env, env_args=data.source.env_args)
