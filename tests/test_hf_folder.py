"""Folders of Hugging Face's DecisionTransformerModel: both directions with the real library, and hostile folders."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import peerage
from peerage.cli import main
from peerage.errors import UserError
from peerage.interop.hf_dt import is_hf, read_hf, write_hf
from peerage.nets.gpt import StackedGPT
from peerage.nets.gpt_settings import GPTSettings
from peerage.offline.model import SequenceModel
from peerage.offline.preprocessing import Preprocessing

OBS, K = 4, 5
pytestmark = pytest.mark.usefixtures("one_thread")


def make_model(discrete=False, n_actions=3):
    rng = np.random.default_rng(0)
    bounds = {"n_actions": n_actions} if discrete else {"low": np.float32([-2, 0.1]), "high": np.float32([2, 0.7])}
    prepared = Preprocessing(
        rng.normal(size=OBS).astype(np.float32), rng.uniform(1, 2, OBS).astype(np.float32), 123.5, **bounds,
        rtg_low=np.float32([0, 1]), rtg_high=np.float32([5, 4]), returns=np.linspace(-3, 9, 101, dtype=np.float32),
    )  # fmt: skip
    settings = GPTSettings(context_length=K, d_model=8, n_layers=2, n_heads=2, activation="gelu_new", max_ep_len=30)
    net = StackedGPT(1, OBS, prepared.width, settings, tanh=prepared.bounded)
    net.init_([rng])
    net.flat.mul_(20)
    return SequenceModel(net, prepared, "CartPole-v1", {"max_episode_steps": 30})


@pytest.mark.parametrize("discrete", [False, True])
def test_hugging_face_opens_a_folder_and_saves_one_that_is_read(tmp_path, discrete):
    transformers = pytest.importorskip("transformers")
    model = make_model(discrete)
    folder = write_hf(model, tmp_path / "ours")
    theirs, info = transformers.DecisionTransformerModel.from_pretrained(folder, output_loading_info=True)
    assert not any(info[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert theirs.config.state_mean == model.preprocessing.state_mean.tolist() and theirs.config.scale == 123.5
    assert theirs.config.context_length == K and theirs.config.bos_token_id is None
    torch.manual_seed(0)
    states, actions, rtg = (torch.randn(2, K, size) for size in (OBS, model.net.act, 1))
    timesteps, mask = torch.arange(K).expand(2, K), torch.ones(2, K, dtype=torch.bool)
    with torch.no_grad():
        found = theirs.eval()(
            states=states, actions=actions, rewards=rtg, returns_to_go=rtg, timesteps=timesteps, attention_mask=mask
        ).action_preds
    own = model.net(*(x.unsqueeze(0) for x in (states, actions, rtg, timesteps, mask)))[0]
    torch.testing.assert_close(found, own, rtol=1e-5, atol=1e-5)
    theirs.save_pretrained(tmp_path / "theirs")
    for path in (folder, tmp_path / "theirs"):
        assert is_hf(path)
        again = read_hf(path)
        assert torch.equal(again.net.flat, model.net.flat) and again.net.settings == model.net.settings
        assert again.preprocessing.state() == model.preprocessing.state()
        assert (again.env, again.env_args) == (model.env, model.env_args)


def test_a_foreign_folder_needs_statistics(tmp_path):
    """One that transformers has made: without statistics, in another precision, with Hugging Face's defaults."""
    transformers = pytest.importorskip("transformers")
    config = transformers.DecisionTransformerConfig(state_dim=OBS, act_dim=2, hidden_size=8, n_layer=1, max_ep_len=20)
    made = transformers.DecisionTransformerModel(config).to(torch.bfloat16)
    made.save_pretrained(tmp_path / "foreign")
    with pytest.raises(UserError, match=r"has no state_mean, state_std and scale: .*--stats-from DATASET"):
        read_hf(tmp_path / "foreign")
    statistics = make_model().preprocessing
    model = read_hf(tmp_path / "foreign", statistics)
    assert model.preprocessing is statistics and model.net.settings.context_length == 20
    assert torch.equal(model.net.weights()["0.ff1.weight"][0], made.encoder.h[0].mlp.c_fc.weight.float())
    with pytest.raises(UserError, match="has observations of 4 and actions of 2 numbers, but its statistics 4 and 3"):
        read_hf(tmp_path / "foreign", make_model(discrete=True).preprocessing)


def test_an_existing_folder_is_not_overwritten(tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="exists already"):
        write_hf(make_model(), tmp_path / "there")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_hf(make_model(), tmp_path / "file" / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "there"]


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("executed",))


def spoil_config(**changed):
    def spoil(folder):
        config = json.loads((folder / "config.json").read_text())
        for name, value in changed.items():
            inner = config["peerage"] if name in config["peerage"] else config
            inner[name] = value
        (folder / "config.json").write_text(json.dumps(config))

    return spoil


def spoil_tensors(change):
    def spoil(folder):
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file({name: x.contiguous() for name, x in tensors.items()}, folder / "model.safetensors")

    return spoil


def only_a_pickle(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))


HOSTILE = {
    "pickle": (only_a_pickle, "pytorch_model.bin is a pickle"),
    "pickle by another name": (
        lambda folder: (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb())), "cannot be read"
    ),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "contains no model.safetensors"),
    "cut": (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:999]),
        "cannot be read",
    ),
    "no JSON": (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read"),
    "a list": (lambda folder: (folder / "config.json").write_text("[]"), "it is not a mapping"),
    "deep": (lambda folder: (folder / "config.json").write_text("[" * 10**6), "config.json cannot be read"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "it contains no config.json"),
    "another model": (spoil_config(architectures=["GPT2"], model_type="gpt2"), r"contains \['GPT2'\]"),
    "other size": (spoil_config(hidden_size=10**12), "has hidden_size 1000000000000, but its weights have 8"),
    "many layers": (spoil_config(n_layer=10**12), "has n_layer 1000000000000, but its weights have 2"),
    "heads": (spoil_config(n_head=3), "n_heads 3 does not divide d_model 8"),
    "text for a number": (spoil_config(n_head="os.system"), "has n_head os.system"),
    "long context": (spoil_config(context_length=10**9), "has context_length 1000000000"),
    "activation": (spoil_config(activation_function="silu"), "has the activation silu"),
    "activation list": (spoil_config(activation_function=["relu"]), "has the activation"),
    "scaling": (spoil_config(scale_attn_weights=False), "has scale_attn_weights False"),
    "no tanh": (spoil_config(action_tanh=False), "action_tanh false, but the actions are a bounded Box"),
    "negative deviation": (spoil_config(state_std=[-1.0] * OBS), "invalid statistics"),
    "NaN": (spoil_config(state_mean=[float("nan")] * OBS), "invalid statistics"),
    "ragged": (spoil_config(state_mean=[[1.0], 2.0, 3.0, 4.0]), "invalid statistics"),
    "few": (spoil_config(state_mean=[1.0], state_std=[1.0]), "but its statistics 1 and"),
    "scale": (spoil_config(scale=0), "scale is not a positive number"),
    "n_actions": (spoil_config(n_actions=10**12), "n_actions is not a number of actions"),
    "statistics": (spoil_config(peerage=7), "invalid statistics"),
    "missing": (spoil_tensors(lambda t: t.pop("encoder.ln_f.bias")), "has no tensor encoder.ln_f.bias"),
    "missing sizes": (spoil_tensors(lambda t: t.pop("embed_state.weight")), "has no tensor 'embed_state.weight'"),
    "unknown": (
        spoil_tensors(lambda t: t.update({"encoder.h.0.crossattention.c_attn.weight": torch.zeros(2)})),
        "has the tensor encoder.h.0.crossattention.c_attn.weight, which",
    ),
    "shape": (
        spoil_tensors(lambda t: t.update({"encoder.h.1.ln_1.bias": torch.zeros(9)})),
        r"encoder.h.1.ln_1.bias with the shape \[9\] instead of \[8\]",
    ),
    "empty": (spoil_tensors(lambda t: t.update({"embed_timestep.weight": torch.zeros(10**9, 0)})), "or is empty"),
    "not finite": (
        spoil_tensors(lambda t: t["embed_state.weight"].fill_(float("nan"))), "contains numbers that are not finite"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_folders_are_refused_in_one_line(tmp_path, kind):
    spoil, message = HOSTILE[kind]
    folder = write_hf(make_model(), tmp_path / "model")
    spoil(folder)
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(UserError, match=message) as found:
        read_hf(folder)
    assert "\n" not in str(found.value) and len(str(found.value)) < 600
    assert sorted(path.name for path in folder.iterdir()) == before


def test_impossible_statistics_are_found():
    good = make_model().preprocessing
    good.check()
    for wrong in (
        {"low": np.zeros(0, np.float32)}, {"high": good.low}, {"returns": np.zeros(5, np.float32)},
        {"rtg_low": np.full(2, np.nan, np.float32)}, {"n_actions": 3}, {"scale": True},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"length|order|sizes|scale"):
            replace(good, **wrong).check()


def test_commands_for_runs_say_what_takes_a_folder_of_hugging_face(tmp_path, capsys):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    words = "is a model of Hugging Face, not a run folder: `peerage evaluate`, `peerage video`, `peerage export` and"
    with pytest.raises(UserError, match=words):
        peerage.load(folder)
    for command in (
        ["resume", str(folder)],
        ["train", "--env", "CartPole-v1", "--init-from", str(folder), "--log-dir", str(tmp_path / "runs")],
        ["collect", str(folder), "--out", str(tmp_path / "data")],
    ):
        assert main(command) == 2
        assert words in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    for name in ("evaluate", "video", "watch", "export"):
        assert main([name, "--help"]) == 0 and "RUN|FOLDER" in capsys.readouterr().out


def test_a_video_of_a_folder_shows_the_episodes_of_its_evaluation(tmp_path, capsys):
    folder = write_hf(make_model(discrete=True, n_actions=2), tmp_path / "model")
    words = ["--target-return", "4", "--episodes", "5"]
    assert main(["video", str(folder), *words]) == 0
    assert main(["evaluate", str(folder), *words, "--json"]) == 0
    shown, found = capsys.readouterr().out.split("\n", 1)
    returns = [episode["return"] for episode in json.loads(found)["episodes"]]
    assert (folder / "member-0-replica-0.gif").exists()
    assert [float(word) for word in shown.split("return ")[1].split()] == returns and len(set(returns)) > 1
    out = ["--out", str(tmp_path / "film.gif")]
    for more, words in (
        (["--env", "Acrobot-v1"], "Acrobot-v1 has observations of 6 numbers and 3 discrete actions"),
        (["--member", "1"], "is a folder with a single model: remove --member, --replica and --checkpoint"),
    ):
        assert main(["video", str(folder), *out, *more]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "film.gif").exists()
