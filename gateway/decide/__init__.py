"""Every decision about a request, as pure functions of values: no effect, no clock, no chance."""
