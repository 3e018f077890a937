"""Classify compared pairs by each criterion as pass, fail or inconclusive, with the reason."""
