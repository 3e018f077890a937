"""Routes in the control plane: read declarations, plan and apply them, and keep their history."""
