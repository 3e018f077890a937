"""Evaluators: they ask the other version what a caller asked, compare, and measure. The story of a sample:

    sources.py    claim it, from the store or, where nothing may be kept, from the node
    loop.py       so many at once, each held by a lease; the store away, a stop, a crash
    work.py       one sample: is there budget, may the engine be asked, what came of it
    engines.py    which engine has both versions, and has time (load.py)
    replay.py     the one fence: whatever an engine does becomes an observation (calls.py)
    scoring.py    both versions score the same tokens
    judging.py    a model says which answer is better
    counts.py     what was done, told at each beat
    supervise.py  the node's own evaluator, a process that it keeps running

Nothing here is on a request's path, and a log line never holds what anybody wrote.
"""
