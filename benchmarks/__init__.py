"""Speed and memory, each check of a bar also checking the answer it times. `python -m benchmarks` runs them all."""
