"""Stacked networks: all members of a group as one tensor program."""
