"""How far two versions are apart, without a judge: one statistic a file."""
