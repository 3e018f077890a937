"""Is the candidate still good? What a shadow's answers say of an adapter, and how sure that is.

Knows neither gateways nor adapters: an observation names an arm, a pair names two of them.
"""
