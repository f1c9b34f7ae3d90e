"""Two learners with an expert and an adversary in Room-v21 learn which of them to follow.

python examples/train_group.py
"""

import peerage

if __name__ == "__main__":
    run = peerage.train("Room-v21", n_peers=2, advisers=["expert", "adversary"], gamma=0.95, total_timesteps=50_000)
    print(run.evaluations.groupby("step")["return"].mean())
    print(run.report())
