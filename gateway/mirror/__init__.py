"""Copies of requests for evaluators, and what callers say of replies: taken here, kept in the store."""
