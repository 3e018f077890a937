"""Every decision about a request, as pure functions of values: no I/O, no clock, no randomness."""
