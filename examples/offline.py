"""An RvS policy learns from the better half of recorded episodes, and acts for a target return.

python examples/offline.py
"""

import numpy as np

import peerage

if __name__ == "__main__":
    sources = ["expert", "noise:0.7:expert", "random"]
    data = peerage.collect(sources, "./room", env="Room-v6", episodes=60, overwrite=True)
    print(data)
    best = data.select(data.returns >= np.median(data.returns)).save("./room-best", overwrite=True)
    print(best)
    run = peerage.train(algorithm="rvs", data="./room-best", learning_rate=1e-3, total_timesteps=500)
    table = run.evaluate(10, target_return=np.quantile(best.returns, [0, 0.5, 1]))
    print(table.groupby("target")["return"].mean())
