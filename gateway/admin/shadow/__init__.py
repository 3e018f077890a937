"""Shadow evaluation on the control side: the leader's watch over pairs, what it reports, and what it exports."""
