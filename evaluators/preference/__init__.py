"""Which of two answers a judge prefers: asked in both orders, tied on a flip, checked on answers of one version."""
