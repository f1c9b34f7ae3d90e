"""Loads Decision Transformers by name: folders of Hugging Face, and members of offline runs."""

from __future__ import annotations

from peerage.errors import UserError
from peerage.interop.hf_dt import is_hf, read_hf
from peerage.interop.pretrained import parse_spec
from peerage.offline.model import SequenceModel


def load_sequence_model(spec: str) -> SequenceModel:
    """The Decision Transformer `FOLDER[:MEMBER]`: a folder of Hugging Face, or the member of a run (by default 0, in
    replica 0). Raises UserError if there is none."""
    path, member, _ = parse_spec(spec)
    if not path.is_dir():
        raise UserError(f"no Decision Transformer at {spec!r}: there is no such folder")
    if is_hf(path):
        if member:
            raise UserError(f"{path} is a folder with a single model: remove :{member}")
        return read_hf(path)
    raise UserError(f"{path} is not a Decision Transformer: it contains no config.json")
