"""The small runs of the crash test. They cover all learners, kinds of trust, advisers and exchanges, and all families
of environments."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from peerage.config import AdviceConfig, Config, LearnerConfig, RunConfig
from peerage.trust.in_context_settings import ContextSettings
from peerage.trust.transformer_settings import TrustTransformerSettings


def tiny(env: str, steps: int, every: tuple[int, int, int], **changes: Any) -> Config:
    """A run of `steps` steps. `every`: steps between logs, evaluations and checkpoints. Networks have width 16. Replay
    buffers hold a third of the run, so that they wrap around. `changes`: fields of Config; `learner` is merged into the
    settings below."""
    learner = {
        "net_arch": ((16,),), "batch_size": (16,), "buffer_size": (steps // 3,), "learning_starts": (20,),
        "train_freq": (2,), "gradient_steps": (1,), "target_update_interval": (7,),
    }  # fmt: skip
    log, evaluate, save = every
    base = Config(
        env=env,
        n_peers=2,
        total_timesteps=steps,
        epoch_length=50,
        threads=1,
        device="cpu",
        learner=LearnerConfig(**{**learner, **changes.pop("learner", {})}),
        methods={
            "trust_transformer": TrustTransformerSettings(
            attention_update_freq=9, attention_batch_size=4, sequence_length=8, attention_history=steps // 2,
            warmup_steps=steps, use_phase_aware=changes.pop("phases", False),
            ),
            "context": ContextSettings(
            context_length=10, context_history=30, context_update_freq=9, context_batch_size=4,
            ),
        },
        run=RunConfig(log_freq=log, eval_freq=evaluate, checkpoint_freq=save, n_eval_episodes=1, verbose=0),
    )  # fmt: skip
    return replace(base, **changes)


def advice(trust: Any, **changes: Any) -> AdviceConfig:
    """Scores with all components, so that all of them must be restored, and buffers that wrap around."""
    settings = {"use_critic": True, "use_agent_values": True, "follow_steps": 4, "trust_buffer_size": 50}
    return AdviceConfig(trust=trust, **{**settings, **changes})


QUICK: dict[str, Config] = {
    "room-td": tiny(
        "Room-v21", 190, (17, 60, 42), advice=advice("td", shuffle_advisers=True), advisers=("expert", "adversary"),
    ),
    "room-in-context": tiny(
        "Room-v6", 180, (25, 70, 40), replicas=2,
        advice=advice("in-context", shuffle_advisers=True, imitate="trusted"),
        advisers=("regional:a", "regional:b", "random"), run=RunConfig(
            log_freq=25, eval_freq=70, checkpoint_freq=40, n_eval_episodes=1, verbose=0,
            eval_modes=("alone", "together"),
        ),
    ),
    "room-transformer": tiny(
        "Room-v6", 150, (20, 64, 35), advice=advice("transformer"), advisers=("turncoat", "convert"), replicas=2,
    ),
    "room-change": tiny(
        "Room-v6", 220, (25, 90, 46), advice=advice("hybrid"), advisers=("turncoat", "random"), phases=True,
        env_args={"goals": "left", "change_at": 110, "change": {"goals": "right", "reward_at": "opposite"}},
    ),
    "room-none": tiny("Room-v6", 300, (30, 110, 70), advice=AdviceConfig(sharing="none"), replicas=2),
    "cartpole-paper": tiny(
        "CartPole-v1", 240, (19, 100, 55), replicas=2, advisers=("random",), exchange=("average",), exchange_freq=30,
        advice=advice("td", choice="paper", switch_ratio=2, follow_across_episodes=True, temperature_decay=(0.1,)),
    ),
    "room-disturbed": tiny(
        "Room-v6", 180, (25, 70, 40), advisers=("noise:expert", "sign-flip:expert", "colluding:a"), replicas=2,
        perturb={"dropped_advice": 0.3, "observation_noise": 0.1, "action_delay": 1, "sticky_actions": 0.1},
        advice=advice("in-context", byzantine_members=("1:noise:0.3",)),
        run=RunConfig(log_freq=25, eval_freq=70, checkpoint_freq=40, n_eval_episodes=1, verbose=0, keep_checkpoints=1),
    ),
    "cartpole-mixed": tiny(
        "CartPole-v1", 240, (19, 100, 55), n_peers=3, advisers=("constant:1",), advice=advice("in-context"),
        learner={"net_arch": ((16,), (12, 12), (16,)), "learning_rate": (1e-3, 5e-4, 2e-4)},
        env_args={"length": 0.5, "change_at": 130, "change": {"length": 1.0, "gravity": 12}},
    ),
    "pendulum-sac": tiny("Pendulum-v1", 160, (21, 75, 35), advice=advice("in-context"), advisers=("random",)),
    "pendulum-sde": tiny(
        "Pendulum-v1", 150, (16, 70, 36), advisers=("negated:constant:1",),
        advice=advice("td", choice="greedy", imitate="trusted"),
        learner={"use_sde": (True,), "ent_coef": ("auto_0.1",)},
    ),
    "pendulum-td3": tiny(
        "Pendulum-v1", 170, (18, 65, 40), advice=advice("hybrid"), advisers=("random", "constant"), replicas=2,
        learner={"algorithm": ("td3",)},
        env_args={"change_at": 90, "change": {"g": 5.0, "reward_scale": -1}},
    ),
    "pendulum-mixed": tiny(
        "Pendulum-v1", 150, (22, 80, 32), n_peers=3,
        advice=advice("transformer", only_follow_others=True, imitate="trusted"),
        learner={"algorithm": ("sac", "td3", "sac"), "net_arch": ((16,), (16,), (12,))},
    ),
}  # fmt: skip
"""Cases that take one or two seconds each; the test suite uses these."""

SLOW: dict[str, Config] = {
    "lander-dqn": tiny(
        "LunarLander-v3", 400, (45, 190, 110), advice=advice("hybrid"), advisers=("expert", "turncoat"), phases=True,
        env_args={"change_at": 230, "change": {"enable_wind": True, "gravity": -6.0}},
    ),
    "lander-sac": tiny(
        "LunarLanderContinuous-v3", 300, (40, 170, 70), advice=advice("in-context", shuffle_advisers=True),
        advisers=("regional:a", "regional:b"), env_args={"enable_wind": True},
    ),
    "hopper-sac": tiny(
        "Hopper-v4", 300, (35, 150, 80), advice=advice("hybrid"), advisers=("random",), phases=True, replicas=2,
    ),
    "hopper-td3": tiny(
        "Hopper-v5", 300, (35, 150, 80), advice=advice("td"), advisers=("constant",), learner={"algorithm": ("td3",)},
        env_args={"change_at": 150, "change": {"friction_scale": 0.5, "mass_scale": 1.5}},
    ),
    "hopper-none": tiny(
        "Hopper-v4", 260, (35, 130, 60), advice=AdviceConfig(sharing="none"), learner={"use_sde": (True,)},
    ),
    "ant-sac": tiny("Ant-v5", 240, (33, 130, 70), advice=advice("in-context"), advisers=("random",)),
    "ant-td3": tiny(
        "Ant-v5", 200, (28, 130, 55), advice=advice("transformer"), advisers=("random", "constant"), phases=True,
        learner={"algorithm": ("td3",)},
    ),
}  # fmt: skip
CASES = QUICK | SLOW
