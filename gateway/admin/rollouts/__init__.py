"""Rollouts in the admin plane: commands, the leader's loop, rollback, and the journal's API."""
