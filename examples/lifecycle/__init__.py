"""The life of a release, shown: `make demo-lifecycle`."""
