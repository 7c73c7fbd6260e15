"""Marks of tests that need what not every system has."""

import os
import sys

import pytest

from service.limits import affinity

knows_threads = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux knows of threads here"
)
keeps_to_cores = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system cannot keep a thread to a core"
)
has_two_cores = pytest.mark.skipif(len(affinity()) < 2, reason="there is one core only")
