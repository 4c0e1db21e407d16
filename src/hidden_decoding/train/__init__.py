"""Training: data, the one loop, parallelism applied from outside, checkpoints, metrics. The same code on one CPU and
many hosts."""
