"""What holds for every test."""

import signal

# A shell that runs the suite in the background ignores SIGINT, and every process inherits that; Ctrl-C is tested here.
signal.signal(signal.SIGINT, signal.default_int_handler)
