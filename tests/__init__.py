"""Tests of Loragate; a package, so that `python -m tests.fakes.engine` finds it."""
