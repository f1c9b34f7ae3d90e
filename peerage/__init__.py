"""Peerage: groups of reinforcement-learning agents that learn from each other."""

__version__ = "0.1.0"
