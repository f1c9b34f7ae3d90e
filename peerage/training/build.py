"""Builds the trainer of a configuration: online, or from a dataset."""

from __future__ import annotations

from collections.abc import Sequence

from peerage.config import Config
from peerage.config.check import is_offline
from peerage.config.file import validate
from peerage.envs.make import Maker, Spec
from peerage.offline.configured import load_configured
from peerage.offline.trajectories import Trajectories
from peerage.sharing.adviser import Suggests
from peerage.training.offline import OfflineTrainer
from peerage.training.trainer import Trainer


def build_trainer(
    config: Config,
    *,
    env: Maker | None = None,
    advisers: Sequence[str | Suggests] | None = None,
    pretrained: bool = True,
    spec: Spec | None = None,
    data: Trajectories | None = None,
    keep_env: bool = False,
    learns: bool = True,
) -> Trainer:
    """The trainer of `config`; arguments as of `Trainer`. For offline algorithms, it loads the dataset unless `data` is
    known or the trainer does not learn (`learns`). The environment is then that of the dataset, unless `env`,
    `keep_env` or the configuration select another one. Raises UserError."""
    config = validate(config)
    if not is_offline(config):
        return Trainer(config, env=env, advisers=advisers, pretrained=pretrained, spec=spec)
    if learns and data is None:
        config, data = load_configured(config, keep_env=keep_env or env is not None)
    return OfflineTrainer(config, env=env, advisers=advisers, pretrained=pretrained, spec=spec, data=data)
