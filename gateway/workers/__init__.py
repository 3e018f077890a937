"""The gateway's worker processes: started, fed with route tables, counted, and drained."""
