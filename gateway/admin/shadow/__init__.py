"""Shadow evaluation in the control plane: reports on compared pairs, and metrics."""
