"""What the SRE sees: metrics and logs, without a prompt or a key in either."""
