"""What a request costs in each gateway: `python -m benchmarks.install`, then `python -m benchmarks.run`."""
