"""What operators see of the gateway: Prometheus metrics and log lines. Neither ever holds a prompt or a key."""
