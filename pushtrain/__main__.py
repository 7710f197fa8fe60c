"""`pushtrain` and `python -m pushtrain`: the command line, interruptible while its modules are still being imported."""

import sys

from pushtrain.signals import INTERRUPTED


def main() -> None:
    try:
        from pushtrain.cli import main as command_line
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    command_line()


if __name__ == "__main__":
    main()
