"""Learning algorithms, one readable file each: `dqn`, `sac`, `td3`."""
