#!/bin/sh
# What CI runs of a release: it checks, its tests pass, and the difference is written out. Nothing is started.
set -eu
cd "$(dirname "$0")/../.."
for release in current candidate; do
  sluicegate release check "examples/04_release/$release"
  sluicegate release test "examples/04_release/$release"
done
# Exit code 1 says that something differs: for a reviewer to read.
sluicegate release diff examples/04_release/current examples/04_release/candidate || test $? -eq 1
python -m examples.04_release.compare || test $? -eq 1
