"""The tests, which depend neither on the settings of the shell that starts them nor on its umask.

This runs before any of them, and in each process of pytest-xdist. Servers and commands that tests
start inherit what is left.
"""

import os

from loadtests.compare.processes import FOREIGN

# For clients, load tests and `make`; `make test PORT=4000` exports the Makefile's variables.
OTHERS = (*FOREIGN, "OPENAI_", "LOCUST_", "MAKE", "MFLAGS", "GNUMAKEFLAGS")
OF_MAKE = ("DATA", "HOST", "INTO", "MODEL", "P99", "PORT", "SHAPE")

for name in [name for name in os.environ if name.startswith(OTHERS) or name in OF_MAKE]:
    del os.environ[name]
os.umask(0o022)
