"""The performance goals, one module each, measured on the machine at hand; see docs/bench.md."""
