"""Preferences of an LLM judge: it sees two answers in both orders, and contradicting choices count as a tie."""
