"""A custom family of features for transformer trust: CartPole with four blocks and three phases.

python examples/custom_features.py
"""

import numpy as np

import peerage
from peerage.envs.make import check_env_id
from peerage.trust.features import ADVISER, Family, FeatureHistory, columns, make_features, one_hot


def phases(past: FeatureHistory) -> np.ndarray:
    """0 balanced; 1 leaning; 2 at the edge of the track."""
    place, angle = past.obs[..., 0], past.obs[..., 2]
    return np.where(np.abs(place) > 1.5, 2, np.where(np.abs(angle) > 0.05, 1, 0))


def extract(past: FeatureHistory) -> dict[str, np.ndarray]:
    angle, spin = past.obs[..., 2], past.obs[..., 3]
    return {
        "pole": columns(angle / 0.2, spin, np.abs(angle) > 0.1, past.std_of_last(angle, 20)),
        "action": columns(one_hot(past.action, 2), past.changed(past.action)),
        "reward": past.mean_reward(20),
    }


def pole(spec) -> Family:
    return Family(
        name="pole",
        blocks=(("pole", 4), ("action", 3), ADVISER, ("reward", 1)),
        extract=extract,
        phases=phases,
        phase_names=("balanced", "leaning", "at the edge"),
    )


peerage.register_features("CartPole-v1", pole)  # under the name of the environment, so `auto` finds it

if __name__ == "__main__":
    features = make_features("auto", check_env_id("CartPole-v1", {}), n_members=2, n_advisers=3)
    print(features.width, "features:", {name: (block.start, block.stop) for name, block in features.slices.items()})
    print("phases:", *features.phase_names)

    run = peerage.train(
        "CartPole-v1",
        n_peers=2,
        advisers=["random"],
        total_timesteps=4000,
        learning_starts=200,
        eval_freq=1000,
        trust="hybrid",
        use_phase_aware=True,
        attention_lr=1e-3,
        warmup_steps=2000,
    )
    advice = run.advice[run.advice["step"] > 2000]
    print(advice.groupby(["asker", "adviser"])[["trust_td", "trust_attention", "omega"]].mean().round(3))
    chosen = advice.groupby("adviser")["chosen"].sum()
    print((chosen / chosen.sum()).round(2))
    print(run.folder / "report.html")
