"""Being stopped: Ctrl-C, and the SIGINT, SIGTERM, SIGKILL that a cancelled Action gets within ten seconds.

Every step of the control plane may be cut anywhere, also by SIGKILL; what is left to do is to say so and to go.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# The exit code of a process that was told to stop, by Ctrl-C or otherwise.
INTERRUPTED = 130


class Stopped(KeyboardInterrupt):
    """SIGINT or SIGTERM came. Children that were waited for have been ended on the way up."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.name = signal.Signals(number).name


@contextmanager
def stoppable() -> Iterator[Callable[[], None]]:
    """In here the first SIGINT or SIGTERM raises Stopped in the main thread; those after it are ignored, so that
    nothing is cut off while it ends. Calling what is yielded listens once more.

    A signal that this process was started to ignore stays ignored.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    numbers = [number for number, handler in before.items() if handler is not signal.SIG_IGN]

    def stop(number: int, _: FrameType | None) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    def listen() -> None:
        for each in numbers:
            signal.signal(each, stop)

    listen()
    try:
        yield listen
    finally:
        for each in numbers:
            signal.signal(each, before[each])
