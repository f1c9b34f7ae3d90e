"""Experiments by name: `peerage train --config NAME`.

The experiments of the peer-learning paper are the product of environments (families.yaml) and settings (settings.yaml),
the probes of trust the product of environments and groups of advisers (probes.yaml), the presets of the published
transformer-trust code the product of kinds of trust and environments (seed.yaml), and those of FedFormer the product of
sizes and methods (fedformer.yaml). Those of PPO (ppo.yaml), of trainings from a dataset (offline.yaml) and of the
paper's open questions (open.yaml) are lists. Every other YAML file here is a single preset.
"""

from __future__ import annotations

import copy
from dataclasses import fields
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from peerage.config.plain_yaml import parse
from peerage.config.tree import parts
from peerage.errors import UserError, nearest

FOLDER = Path(__file__).parent
PRODUCT = ("families", "settings", "seed", "probes", "open", "ppo", "fedformer", "offline")


class _Recipe(NamedTuple):
    title: str
    layers: tuple[dict[str, Any], ...]


def preset_names() -> list[str]:
    """The names of all presets, in the order of `peerage presets`."""
    return list(_recipes())


def preset_groups() -> dict[str, list[str]]:
    """Heading -> the names of the presets below it, in the order of `peerage presets`."""
    return {heading: list(group) for heading, group in _groups().items()}


def preset(name: str) -> dict[str, Any]:
    """The settings of a preset, nested as in a YAML file. Other settings keep their defaults."""
    data: dict[str, Any] = {}
    for layer in _recipe(name).layers:
        _lay_over(data, layer)
    order = [*(field.name for field in fields(parts()[""])), *parts()]
    return dict(sorted(data.items(), key=lambda item: order.index(item[0])))


def describe(name: str) -> str:
    """One line about a preset."""
    return _recipe(name).title


def _recipe(name: str) -> _Recipe:
    recipes = _recipes()
    if name not in recipes:
        raise UserError(f"no preset {name!r}{nearest(name, list(recipes))}; see `peerage presets`")
    return recipes[name]


def _lay_over(data: dict[str, Any], layer: dict[str, Any]) -> None:
    for key, value in layer.items():
        if isinstance(value, dict) and isinstance(data.get(key), dict):
            _lay_over(data[key], value)
        else:
            data[key] = copy.deepcopy(value)


def _read(name: str) -> dict[str, Any]:
    path = FOLDER / f"{name}.yaml"
    data = parse(path.read_text(encoding="utf-8"), path.name)
    assert isinstance(data, dict)
    return data


@lru_cache
def _groups() -> dict[str, dict[str, _Recipe]]:
    """Heading -> the presets below it, by name."""
    own = {
        path.stem: _Recipe((data := _read(path.stem))["title"], (data["config"],))
        for path in sorted(FOLDER.glob("*.yaml"))
        if path.stem not in PRODUCT
    }
    families, settings = _read("families"), _read("settings")
    return {
        "To start with": own,
        "Peer learning (arXiv 2312.09950)": _product(families, settings),
        "Peer learning: which signals of an adviser's value matter": _ablation(families, settings),
        "Peer learning: the open questions of the paper": _open(_read("open")),
        "Transformer trust, with the published settings": _seed(_read("seed")),
        "Probes of trust: advisers that are known to be right or wrong": _probes(_read("probes")),
        "PPO and attention networks": _ppo(_read("ppo")),
        "FedFormer on Meta-World (arXiv 2205.13697)": _fedformer(_read("fedformer")),
        "Learning from a dataset, to be added with --data": _offline(_read("offline")),
    }


@lru_cache
def _recipes() -> dict[str, _Recipe]:
    return {name: recipe for group in _groups().values() for name, recipe in group.items()}


def seed_flags(algorithm: str) -> dict[str, Any]:
    """The settings that a command of the published transformer-trust code implies without flags. `algorithm` is dqn or
    sac."""
    made = _read("seed")
    data: dict[str, Any] = {}
    for layer in (made["common"], made[algorithm], {"advice": made["trusts"]["hybrid"]["config"]["advice"]}):
        _lay_over(data, layer)
    del data["n_epochs"], data["epoch_length"]  # the length comes from the command or from the flags' defaults
    return data


def _seed(made: dict[str, Any]) -> dict[str, _Recipe]:
    """`seed-TRUST-ENVIRONMENT`."""
    recipes = {}
    for trust, of_trust in made["trusts"].items():
        for env, of_env in made["environments"].items():
            algorithm, env_id = of_env["algorithm"], of_env["env"]
            title = f"{env_id}, 4 {algorithm.upper()} members: {of_trust['title']}"
            layers = (made["common"], made[algorithm], of_trust["config"], {"env": env_id})
            recipes[f"seed-{trust}-{env}"] = _Recipe(title, layers)
    return recipes


def _probes(made: dict[str, Any]) -> dict[str, _Recipe]:
    """`probe-ENVIRONMENT-PROBE`, for every environment and probe."""
    recipes = {}
    for env, of_env in made["environments"].items():
        for probe, of_probe in made["probes"].items():
            advisers = {"advisers": of_probe.get("environments", {}).get(env, of_probe["advisers"])}
            title = f"{of_env['title']}: {of_probe['title']}"
            recipes[f"probe-{env}-{probe}"] = _Recipe(title, (made["common"], of_env["config"], advisers))
    return recipes


def _offline(made: dict[str, Any]) -> dict[str, _Recipe]:
    common = made.pop("common")
    return {name: _Recipe(own["title"], (common, own["config"])) for name, own in made.items()}


def _ppo(made: dict[str, Any]) -> dict[str, _Recipe]:
    """`ppo-TASK`, and the presets with attention networks."""
    tasks = made["tasks"]
    recipes = {
        f"ppo-{task}": _Recipe(
            f"{config['env']}, 4 PPO members without advice: RL Zoo's settings", (made["common"], config)
        )
        for task, config in tasks.items()
    }
    for name, other in made["attention"].items():
        layers = (made["common"], tasks.get(other.get("task"), {}), other["config"])
        recipes[name] = _Recipe(other["title"], layers)
    return recipes


def _fedformer(made: dict[str, Any]) -> dict[str, _Recipe]:
    """`fedformer-SIZE`, and the same settings with other methods, `fedformer-SIZE-METHOD`."""
    recipes = {}
    for size, of_size in made["sizes"].items():
        for method, of_method in made["methods"].items():
            config = of_size["config"]
            exchanges = "exchange" in of_method["config"]
            unused = ("fedformer", *(() if exchanges else ("exchange_freq",))) if method else ()
            pooled = of_size["pooled"] if method == "-pooled" else {}
            layers = (made["common"], {k: v for k, v in config.items() if k not in unused}, of_method["config"], pooled)
            title = f"reach-v3, {of_method['title']}: {of_size['title']}"
            recipes[f"fedformer-{size}{method}"] = _Recipe(title, layers)
    return recipes


def _open(made: dict[str, Any]) -> dict[str, _Recipe]:
    """`open-size-TASK-N`, and one for every other question."""
    recipes = {}
    for task, of_task in made["tasks"].items():
        for size in made["sizes"]:
            title = f"{of_task['config']['env']}, {size} DQN members: does the size of the group matter?"
            layers = (made["common"], made["dqn"], of_task["config"], {"n_peers": size})
            recipes[f"open-size-{task}-{size}"] = _Recipe(title, layers)
    for name, own in made["presets"].items():
        recipes[f"open-{name}"] = _Recipe(own["title"], (made["common"], made[own["like"]], own["config"]))
    return recipes


def _product(shared: dict[str, Any], made: dict[str, Any]) -> dict[str, _Recipe]:
    """`SETTING-FAMILY`, and single presets of the paper."""
    recipes = {}
    for setting, of_setting in made["settings"].items():
        for family, of_family in shared["families"].items():
            # A family's title contains the size of the group, which a setting can change: use only the environment
            title = f"{of_family['title'].split(',')[0]}: {of_setting['title']}"
            recipes[f"{setting}-{family}"] = _of_paper(shared, made, family, setting, title)
    for name, other in made["others"].items():
        family, setting, title, config = (other[key] for key in ("family", "setting", "title", "config"))
        recipes[name] = _of_paper(shared, made, family, setting, title, config)
    return recipes


def _of_paper(
    shared: dict[str, Any], made: dict[str, Any], family: str, setting: str, title: str, *more: dict[str, Any]
) -> _Recipe:
    of_family, of_setting = shared["families"][family], made["settings"][setting]
    special = of_setting.get("families", {}).get(family, {})
    base = (shared["common"], shared[of_family["like"]], of_family["config"])
    return _Recipe(title, (*base, of_setting["config"], special, *more))


def _ablation(shared: dict[str, Any], made: dict[str, Any]) -> dict[str, _Recipe]:
    """`ablation-FAMILY-VALUES-SIGNALS`, for every subset of the signals."""
    recipes = {}
    signals = made["ablation"]["signals"]
    for family in made["ablation"]["families"]:
        for values in ("advantage", "none"):
            for size in range(1, len(signals) + 1):
                for subset in combinations(signals, size):
                    switches = {field: signal in subset for signal, field in signals.items()}
                    advice = {"advice": {**switches, "use_advantage": values == "advantage"}}
                    env = shared["families"][family]["config"]["env"]
                    of = "advantages" if values == "advantage" else "returns"
                    title = f"{env}: peer learning by {' + '.join(subset)}, of {of}"
                    name = f"ablation-{family}-{values}-{'-'.join(subset)}"
                    recipes[name] = _of_paper(shared, made, family, "peer", title, advice)
    return recipes
