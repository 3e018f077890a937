"""Rollouts: commands, the leader, rollback, and the journal that tells all of it."""
