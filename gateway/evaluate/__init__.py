"""Evaluators replay callers' requests on the other version, compare both answers, and measure drift.

The story of a sample:

    sources.py             claim it, from the store, or from the node's memory where nothing may be stored
    loop.py                evaluate several at once, each under a lease; survive an absent store, a stop, a crash
    evaluate_sample.py     evaluate one sample: check its budget, find an engine, replay, compare, store
    engines.py             choose an engine that has both versions and is not busy (load.py, idle.py)
    replay.py              turn whatever an engine does into an observation (calls.py)
    comparator_runner.py   run the comparators on both answers
    pair_drift.py          choose the tokens that both versions score (scorer.py)
    judge.py               ask a language model which answer is better (judges.py)
    counts.py              the counts that each heartbeat reports
    supervise.py           the node's own evaluator, a process that the node keeps running

None of this is on the path of a request. Log lines never hold text of a caller, a model or a judge.
"""
