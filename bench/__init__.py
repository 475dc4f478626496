"""Benches: `python -m bench` runs all of them, `python -m bench NAME` one. Results in bench/results/*.json."""
