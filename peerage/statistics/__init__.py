"""Statistics of runs: intervals, tests, comparisons with verdicts, analysis of advice, and sensitivity."""
