"""The gates of a rollout's steps: what each reads, and when it passes or fails. Pure."""
