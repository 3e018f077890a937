"""What the statistics promise, simulated: `make simulate` runs it all and writes docs/statistics.md's figures.

Everything is seeded and the same on every run. The formulas are those of `evaluators/statistics`, over
whole arrays of runs (`capital.py`; a test holds the two against each other).
"""
