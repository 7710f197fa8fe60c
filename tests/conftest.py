"""What holds for every test."""

import os
import signal

# Workers side by side share the cores: threads that wait for each other by spinning take ten times as long there.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that runs the suite in the background ignores SIGINT, and every process inherits that; Ctrl-C is tested here.
signal.signal(signal.SIGINT, signal.default_int_handler)
