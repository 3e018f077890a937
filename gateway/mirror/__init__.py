"""Copies of requests for evaluators, and callers' feedback on replies: collected, redacted, and passed to the store."""
