"""Rollouts as values: plan, state machine, automation, journal, record and explanation. Pure: no effect, no clock."""
