"""From compared pairs to a classification with a reason, per criterion: pass, fail or inconclusive."""
