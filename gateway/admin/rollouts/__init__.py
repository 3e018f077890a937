"""Rollouts in the control plane: commands, the leader's loop, rollback, and the journal's API."""
