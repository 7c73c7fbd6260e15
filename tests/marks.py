"""Marks of tests that need what not every system has."""

import sys

import pytest

knows_threads = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux knows of threads here"
)
