"""What the benchmarks share: how time and memory are measured."""
