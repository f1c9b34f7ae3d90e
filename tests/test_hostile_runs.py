"""Checkpoints and run folders that were damaged, on purpose or not: every answer is a one-line message, and no existing
file is lost."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import COMMANDS_OF_A_RUN, KINDS, NUMBERS, Place, examples, guarded, mutated, some_runs, use  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from peerage.runs import checkpoint, disk

pytestmark = pytest.mark.long

# --- checkpoints ------------------------------------------------------------------------------------------------


def reseal(folder: Path, **manifest: Any) -> None:
    """Correct the checksums, as an attacker would."""
    old = json.loads((folder / "manifest.json").read_text())
    old.pop("seal")
    new = {**old, **manifest}
    if "files" not in manifest:
        new["files"] = {name: disk.sha256(folder / name) for name in checkpoint.FILES}
    if "chunks" not in manifest:
        for chunk in (chunk for chunks in new["chunks"].values() for chunk in chunks):
            path = folder.parent / "chunks" / chunk["name"]
            chunk |= {"sha256": disk.sha256(path), "size": path.stat().st_size}
    (folder / "manifest.json").write_text(json.dumps({**new, "seal": checkpoint._seal(new)}))




FLIPS = st.tuples(
    st.floats(0, 1, exclude_max=True), st.sampled_from(("flip", "more", "less", "cut")), st.integers(1, 255)
)  # fmt: skip


def said(path: Path) -> Any:
    """What a JSON file holds, if anything."""
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        return None


@examples(120)
@given(
    kind=st.sampled_from(KINDS), command=st.sampled_from(COMMANDS_OF_A_RUN), which=st.integers(0, 99), flip=FLIPS,
    both=st.booleans(),
)  # fmt: skip
def test_a_byte_of_a_checkpoint(runs, kind, command, which, flip, both):
    """Every damage is detected: a resume continues from the previous checkpoint to the same result, and if that is
    damaged too, it is refused."""
    with Place(runs, kind) as place:
        newest = place.newest
        chunks = sorted((newest.parent / "chunks").iterdir())
        sound = json.loads((newest / "manifest.json").read_text())
        files = [*sorted(newest.iterdir()), *(chunks if command[0] == "resume" else ())]  # the others read none
        file = files[which % len(files)]
        for path in [file, *(newest.parent / "step_000000020").iterdir()][: 4 if both else 1]:
            data, (where, how, x) = bytearray(path.read_bytes()), flip
            at = int(where * len(data))
            match how:
                case "flip":
                    data[at] ^= x
                case "more":
                    data.insert(at, x)
                case "less":
                    del data[at]
                case "cut":
                    del data[at:]
            path.write_bytes(data)
        answer = use(place, command, exact=True)
        if file.parent != newest:  # a chunk that an older one needs, or both
            return
        if file.name == "manifest.json" and said(file) == sound:  # a space more or less
            return
        if both:
            assert answer.refused, answer
        else:
            aside = place.newest.with_name("damaged_step_000000040")
            for_another_reason = command[0] == "train" or "without advice" in answer.err
            assert answer.refused == for_another_reason, answer
            told = "damaged" in answer.out + answer.err
            assert aside.is_dir() if command[0] == "resume" else told or for_another_reason, answer


FOLLOWED, REPLAY = "trainer/sharing/followed", "trainer/group/stacks/0/learner/replay/data"
JSON = st.sampled_from((None, True, False, *NUMBERS, "", "x", "run", [], {}, [[]], [0], {"x": 0},
                        {"$tensor": "nowhere"}, {"$tensor": FOLLOWED}, {"$array": FOLLOWED},
                        {"$buffer": REPLAY, "start": 0, "stop": 10**12},
                        {"$buffer": "nowhere", "start": 0, "stop": 0}))  # fmt: skip


def spoiled(x: torch.Tensor) -> dict[str, torch.Tensor]:
    """A tensor of another shape, type or content; some shapes would be broadcast without a word."""
    real, yes_or_no = x.is_floating_point(), x.dtype == torch.bool
    huge = x if real else torch.full_like(x, 1 if yes_or_no else torch.iinfo(x.dtype).max)
    return {
        "first": x.flatten()[:1].clone(), "row": x[:1].clone() if x.ndim else x[None], "empty": x.flatten()[:0].clone(),
        "scalar": x.flatten()[0].clone() if x.numel() else torch.zeros(()), "more": x.flatten().repeat(2),
        "deeper": x[None].clone(), "column": x.reshape(-1, 1).clone(), "flat": x.flatten().clone(),
        "zero-sized": torch.zeros(0, 2**40), "ones": x.reshape(*x.shape, 1).clone(),
        "float64": x.to(torch.float64), "float32": x.to(torch.float32), "float16": x.to(torch.float16),
        "bfloat16": x.to(torch.bfloat16), "int64": x.to(torch.int64), "int32": x.to(torch.int32),
        "bool": x.to(torch.bool), "zeros": torch.zeros_like(x), "huge": huge,
        "nan": torch.full_like(x, torch.nan) if real else huge, "inf": torch.full_like(x, -torch.inf) if real else huge,
        "negative": ~x if yes_or_no else -torch.ones_like(x), "plus": ~x if yes_or_no else x + 1,
    }  # fmt: skip


HOW = tuple(spoiled(torch.zeros(2)))


@examples(150)
@given(kind=st.sampled_from(KINDS), command=st.sampled_from(COMMANDS_OF_A_RUN), data=st.data())
def test_a_state_with_valid_checksums_and_invalid_values(runs, kind, command, data):
    with Place(runs, kind) as place:
        newest = place.newest
        if data.draw(st.booleans()):
            path = newest / "state.json"
            path.write_text(json.dumps(data.draw(mutated(json.loads(path.read_text()), JSON))))
        else:
            path = newest / "state.safetensors"
            tensors = load_file(path)
            name = data.draw(st.sampled_from(sorted(tensors)))
            tensors[name] = spoiled(tensors[name])[data.draw(st.sampled_from(HOW))]
            save_file(tensors, path)
        reseal(newest)
        use(place, command)




@pytest.mark.parametrize("command", [COMMANDS_OF_A_RUN[0], COMMANDS_OF_A_RUN[2]])
@pytest.mark.parametrize(
    "runner",
    [None, [], {}, 7, {"offsets": None}, {"offsets": []}, {"offsets": {}}, {"offsets": {"metrics.csv": "x"}},
     {"offsets": {"metrics.csv": None}}, {"offsets": {"metrics.csv": -1}}, {"offsets": {"metrics.csv": 10**30}},
     {"frozen": [0]}, {"evaluated_at": "x"}],
)  # fmt: skip
def test_an_invalid_state_of_the_runner(runs, command, runner):
    """A resume is refused; an evaluation of the members does not need this state."""
    with Place(runs) as place:
        path = place.newest / "state.json"
        state = json.loads(path.read_text())
        state["runner"] = {**state["runner"], **runner} if isinstance(runner, dict) and runner else runner
        path.write_text(json.dumps(state))
        reseal(place.newest)
        answer = use(place, command)
        assert answer.refused if command[0] == "resume" else answer.status == 0, answer


@examples(60)
@given(kind=st.sampled_from(KINDS), which=st.integers(0, 99), how=st.sampled_from((*HOW, "drop", "rename", "swap")),
       name=st.integers(0, 99))  # fmt: skip
def test_chunks_with_valid_checksums_and_invalid_values(runs, kind, which, how, name):
    with Place(runs, kind) as place:
        chunks = sorted((place.newest.parent / "chunks").iterdir())
        path = chunks[which % len(chunks)]
        tensors = load_file(path)
        key = sorted(tensors)[name % len(tensors)]
        match how:
            case "drop":
                del tensors[key]
            case "rename":
                tensors["x"] = tensors.pop(key)
            case "swap":
                tensors = load_file(chunks[which // 2 % len(chunks)])
            case _:
                tensors[key] = spoiled(tensors[key])[how]
        save_file(tensors, path)
        for folder in checkpoint.checkpoints(place.run):
            reseal(folder)
        use(place, COMMANDS_OF_A_RUN[0])


@examples(60)
@given(kind=st.sampled_from(KINDS), command=st.sampled_from(COMMANDS_OF_A_RUN), data=st.data())
def test_a_manifest_with_a_valid_checksum_and_invalid_values(runs, kind, command, data):
    with Place(runs, kind) as place:
        newest = place.newest
        manifest = json.loads((newest / "manifest.json").read_text())
        manifest.pop("seal")
        names = ("../../../outside/precious", "/etc/passwd", "..", "a.safetensors", "step_000000020", "config", "step",
                 "../step_000000020/state.json", "format", "about", "files", "chunks")  # fmt: skip
        manifest = data.draw(mutated(manifest, JSON | st.sampled_from(names)))
        if not isinstance(manifest, dict):
            return
        step = data.draw(st.sampled_from((40, 40, 40, 40, 60, 61, 10**9, 10**30, 0)))
        if step != 40:
            manifest["step"] = step
            newest = newest.rename(newest.with_name(f"step_{step:09d}"))
            if data.draw(st.booleans()):
                state = json.loads((newest / "state.json").read_text())
                (newest / "state.json").write_text(json.dumps({**state, "step": step}))
                manifest["files"] = {name: disk.sha256(newest / name) for name in checkpoint.FILES}
        (newest / "manifest.json").write_text(json.dumps({**manifest, "seal": checkpoint._seal(manifest)}))
        use(place, command)


JUNK = (b"", b"\0", b"{}", b"[]", b"null", b"{", b'{"why": [1], "step": "x", "when": {}}', b"\xff\xfe", b"x" * 10**6,
        b'{"versions": 3, "hardware": [], "git": 7, "resumed": {}}',
        b'{"versions": {"torch": {}}, "hardware": {"a": []}}',
        b"[" * 10**5, b"step\n", b"1" * 9000)  # fmt: skip
FILES = ("DONE", "FAILED", "environment.json", "command.txt", ".lock", "metrics.csv", "evaluations.csv", "advice.csv",
         "timing.csv", "checkpoints", "checkpoints/chunks", "checkpoints/step_000000040", "checkpoints/step_000000020",
         "checkpoints/step_000000040/state.json", "checkpoints/step_000000040/manifest.json", "report.html", "figures",
         "figures/training_return.png", "export", "dumps", "tensorboard", "checkpoints/step_000000099",
         "checkpoints/step_\u0661", "checkpoints/.step_x", "checkpoints/step_000000060",
         "checkpoints/.step_000000060.partial", "checkpoints/chunks/.x", "config.yaml",
         "checkpoints/chunks/old.safetensors", ".DONE.1.tmp", "wandb_run.txt")  # fmt: skip


def replaced(path: Path, how: str, outside: Path, junk: bytes) -> None:
    """Something else in place of a file or folder of a run."""
    if how == "longer" and path.is_file():
        path.write_bytes(path.read_bytes() + junk)
        return
    if how == "shorter" and path.is_file():
        path.write_bytes(path.read_bytes()[:-3])
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    match how:
        case "junk" | "longer" | "shorter":
            path.write_bytes(junk)
        case "folder":
            (path / "full").mkdir(parents=True)
        case "fifo":
            os.mkfifo(path)
        case "link to a file":
            path.symlink_to(outside / "metrics.csv")
        case "link to a folder":
            path.symlink_to(outside / "checkpoints" if path.name == "checkpoints" else outside)
        case "link to nothing":
            path.symlink_to(outside / "made")
        case "link to itself":
            path.symlink_to(path)


REPLACED = ("junk", "longer", "shorter", "missing", "folder", "fifo", "link to a file", "link to a folder",
            "link to nothing", "link to itself")  # fmt: skip




ASIDE = {"FAILED", "environment.json", "command.txt", ".lock", "timing.csv", "report.html", "figures",
         "figures/training_return.png", "export", "dumps", "tensorboard", "wandb_run.txt", ".DONE.1.tmp"}  # fmt: skip
"""Files that do not affect a training, whatever their content."""


@examples(120)
@given(command=st.sampled_from(COMMANDS_OF_A_RUN), name=st.sampled_from(FILES), how=st.sampled_from(REPLACED),
       junk=st.sampled_from(JUNK))  # fmt: skip
def test_other_things_in_a_run_folder(runs, command, name, how, junk):
    with Place(runs) as place:
        replaced(place.run / name, how, place.outside, junk)
        use(place, command, exact=name in ASIDE or name.startswith("checkpoints"))


@pytest.mark.parametrize("name", ["FAILED", "environment.json", "command.txt", "wandb_run.txt", "timing.csv"])
def test_invalid_small_files_do_not_stop_a_resume(runs, name):
    for junk in JUNK:
        with Place(runs) as place:
            (place.run / name).write_bytes(junk)
            answer = use(place, COMMANDS_OF_A_RUN[0], exact=True)
            assert answer.refused == (name == "timing.csv"), (junk[:20], answer)


@pytest.mark.parametrize("how", ["shorter", "within a line", "missing", "empty"])
@pytest.mark.parametrize("name", ["metrics.csv", "evaluations.csv", "advice.csv", "timing.csv"])
def test_rows_that_do_not_reach_the_checkpoint_are_not_touched(runs, name, how):
    """The run cannot be resumed exactly, so it is refused; the user can restore the file."""
    with Place(runs) as place:
        path = place.run / name
        lines = path.read_bytes().splitlines(keepends=True)
        match how:
            case "shorter":
                path.write_bytes(b"".join(lines[:1]))
            case "within a line":
                path.write_bytes(b"".join(lines).replace(b"\n", b" "))
            case "missing":
                path.unlink()
            case "empty":
                path.write_bytes(b"")
        if how == "shorter" and len(lines) == 1:
            pytest.skip("this run has no rows of that kind")
        answer = use(place, COMMANDS_OF_A_RUN[0])
        assert answer.refused and name in answer.err, answer


@pytest.mark.parametrize("how", ["fifo", "link to a file", "link to a folder", "link to nothing"])
def test_no_link_leads_out_of_a_run_folder(runs, how):
    """For every path that a resume writes, truncates or removes; no command blocks."""
    for name in FILES:
        with Place(runs) as place:
            replaced(place.run / name, how, place.outside, b"")
            use(place, COMMANDS_OF_A_RUN[0])


def test_a_run_without_its_checkpoints_is_not_restarted(runs):
    """Its rows would be lost."""
    with Place(runs) as place:
        shutil.rmtree(place.run / "checkpoints")
        assert use(place, COMMANDS_OF_A_RUN[0]).refused




@examples(6)
@given(name=st.sampled_from(FILES), how=st.sampled_from(REPLACED), junk=st.sampled_from(JUNK))
def test_the_report_of_an_odd_run_folder(runs, name, how, junk):
    with Place(runs) as place:
        replaced(place.run / name, how, place.outside, junk)
        place.ask("report", "experiments/run", may=(place.run / "figures", place.run / "report.html"))
