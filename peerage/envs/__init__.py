"""Environments of this library, vectors of environments, scripted policies. Imports NumPy and Gymnasium, not torch.

Importing this package registers them with Gymnasium.
"""

from __future__ import annotations

import gymnasium

# Side length (the number after `Room-v`, which is no version) -> horizon in steps.
ROOM_HORIZONS = {3: 20, 6: 50, 21: 100, 27: 150, 33: 250}


def _register(env_id: str, entry_point: str, horizon: int, **kwargs: object) -> None:
    if env_id not in gymnasium.registry:  # registering an id twice gives a warning
        gymnasium.register(env_id, f"peerage.envs.{entry_point}", max_episode_steps=horizon, kwargs=kwargs)
        # The numbers are sizes: without this, Gymnasium would take Room-v21 for an outdated version of Room-v33
        spec = gymnasium.registry[env_id]
        spec.name, spec.version = env_id, None


for _length, _horizon in ROOM_HORIZONS.items():
    _register(f"Room-v{_length}", "room:Room", _horizon, length=_length)
_register("Hallway-v0", "hallway:Hallway", 200, size=(17,), n_actions=2)
_register("Hallway-v1", "hallway:Hallway", 300, size=(17, 7), n_actions=6)
_register("CartpoleSwingUp-v0", "cartpole_swingup:CartpoleSwingUp", 200)
# The episodes of these four end by themselves, with any arguments: after n_values + 1 and after `steps` steps
_register("MarkedCue-v0", "cues:MarkedCue", 1000)
_register("AskedCue-v0", "cues:AskedCue", 1000)
_register("PlainCue-v0", "cues:MarkedCue", 1000, plain=True)
_register("MarkedFeature-v0", "cues:MarkedFeature", 1000)
_register("TMaze-v0", "cues:TMaze", 100)
_register("CartPoleDistractors-v0", "cartpole_variants:CartPoleDistractors", 500)
_register("CartPoleShuffled-v0", "cartpole_variants:CartPoleShuffled", 500)
_register("CartPoleNoVelocities-v0", "cartpole_variants:CartPoleNoVelocities", 500)
# The names are those of peerage.envs.metaworld.MT10, which imports MuJoCo
for _task in (
    "reach-v3", "push-v3", "pick-place-v3", "door-open-v3", "drawer-open-v3", "drawer-close-v3",
    "button-press-topdown-v3", "peg-insert-side-v3", "window-open-v3", "window-close-v3", "mt10",
):  # fmt: skip
    _register(f"metaworld/{_task}", "metaworld:MetaWorld", 500, task=_task)
