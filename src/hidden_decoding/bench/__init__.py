"""Measuring: what a benchmark record carries, the shape all records share, and the `bench` verbs."""
