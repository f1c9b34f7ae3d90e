"""Statistics of runs: intervals, tests, comparisons and verdicts."""
