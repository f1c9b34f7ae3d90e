"""Training of `transformers.DecisionTransformerModel` with `transformers.Trainer` (extra `hf`), on the batches of `dt`.

    from peerage.interop.hf_trainer import train_hf

    folder = train_hf(peerage.load_data("halfcheetah-expert-v0"), "my-model", steps=1920)
    model = transformers.DecisionTransformerModel.from_pretrained(folder)

It starts from the same weights, draws the same windows and takes the same steps as a run of one member with the same
settings and seed; only dropout differs. Such a training is not a run: it has no evaluations, and no checkpoints,
because those of `Trainer` are pickles. A training that is interrupted starts again.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from peerage.errors import UserError
from peerage.extras import optional
from peerage.interop.hf_dt import write_hf
from peerage.interop.hf_weights import from_hf, to_hf
from peerage.learners.base import Space
from peerage.learners.dt import DT, step_loss
from peerage.learners.dt_settings import DTSettings
from peerage.learners.streams import StreamKey
from peerage.nets.gpt_settings import GPTSettings
from peerage.offline.model import SequenceModel
from peerage.offline.trajectories import Trajectories


def train_hf(
    data: Trajectories,
    out: Path | str,
    *,
    steps: int,
    settings: DTSettings | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Train on `data` for `steps` gradient steps on a CPU, and write a folder as `peerage export --to hf` does.

    `settings`: those of the learner, with the network's in `net_settings`; by default those of the paper, with a
    `max_ep_len` of the longest episode. `seed`: of the weights, the batches and dropout. Returns the folder. Raises
    UserError if it exists, without the extra `hf`, and for data whose actions have unknown bounds.
    """
    transformers = optional("transformers", "hf", "training with Hugging Face's Trainer")
    optional("accelerate", "hf", "training with Hugging Face's Trainer")
    source, out = data.source, Path(out)
    if out.exists():
        raise UserError(f"{out} exists already: remove it, or choose another folder")
    box = None if source.n_actions else (source.low, source.high)
    if box is not None and not all(torch.from_numpy(bound.copy()).isfinite().all() for bound in box):
        raise UserError(f"{source.name} does not describe the bounds of its actions")
    low, high = (None, None) if box is None else box
    space = Space(data.obs.shape[1], data.actions.shape[1], source.n_actions, low, high)
    settings = DTSettings("dt") if settings is None else settings
    gpt = settings.net_settings or GPTSettings()
    if 0 < gpt.max_ep_len < (longest := int(data.lengths.max())):
        raise UserError(f"max_ep_len {gpt.max_ep_len:,} is less than the {longest:,} steps of the longest episode")
    gpt = replace(gpt, max_ep_len=gpt.max_ep_len or int(data.lengths.max()))
    settings = replace(settings, algorithm="dt", net_settings=gpt)
    learner = DT([settings], [StreamKey(seed, 0, 0)], space, steps, data=data, dtype=dtype)
    model = _model(transformers, learner)
    with tempfile.TemporaryDirectory() as folder:  # `Trainer` needs one, and writes nothing into it
        arguments = transformers.TrainingArguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=1,  # an item is a whole batch
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            warmup_steps=math.ceil(settings.warmup_ratio * steps),
            lr_scheduler_type="linear" if settings.anneal_lr else "constant_with_warmup",
            max_grad_norm=settings.max_grad_norm,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            use_cpu=True,
            seed=seed,
        )
        trainer = _trainer_class(transformers, space.discrete)(
            model=model, args=arguments, train_dataset=_Batches(learner), data_collator=_first
        )
        trainer.train()
    from_hf(learner.net, model.state_dict())
    return write_hf(SequenceModel(learner.net, learner.conditioned(1).preprocessing, source.env, source.env_args), out)


def _model(transformers: Any, learner: DT) -> Any:
    """Hugging Face's model with the weights of the learner's network."""
    net, gpt = learner.net, learner.net.settings
    config = transformers.DecisionTransformerConfig(
        state_dim=net.obs, act_dim=net.act, hidden_size=gpt.d_model, n_layer=gpt.n_layers, n_head=gpt.n_heads,
        max_ep_len=gpt.max_ep_len, activation_function=gpt.activation, action_tanh=net.tanh, bos_token_id=None,
        eos_token_id=None, resid_pdrop=gpt.dropout, embd_pdrop=gpt.dropout, attn_pdrop=gpt.dropout,
    )  # fmt: skip
    model = transformers.DecisionTransformerModel(config).to(net.flat.dtype)
    model.load_state_dict({name: x for name, x in to_hf(net).items() if name != "encoder.wpe.weight"}, strict=False)
    with torch.no_grad():
        model.encoder.wpe.weight[0].copy_(net.weights()["position.weight"][0, 0])
    return model


class _Batches(IterableDataset):
    """The batches that the learner would draw, one after the other."""

    def __init__(self, learner: DT) -> None:
        self.learner = learner

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        while True:
            states, actions, rtg, timesteps, mask = (part[0] for part in self.learner.draw())
            batch = {"states": states, "actions": actions, "rewards": rtg, "returns_to_go": rtg}
            yield {**batch, "timesteps": timesteps, "attention_mask": mask.long()}


def _first(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return items[0]


def _trainer_class(transformers: Any, discrete: bool) -> Any:
    class Trainer(transformers.Trainer):
        """Trains on the loss of `peerage.learners.dt.DT.update`."""

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **more: Any) -> Any:
            predicted = model(**inputs).action_preds
            mask, wanted = inputs["attention_mask"].to(predicted.dtype), inputs["actions"]
            loss = (step_loss(predicted, wanted, discrete) * mask).sum() / mask.sum()
            return (loss, predicted) if return_outputs else loss

    return Trainer
