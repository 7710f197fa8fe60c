"""`python -m infra.simulator --state DIR`: the simulator in the foreground."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from infra.simulator.server import SimulatorConfig, serve
from pushtrain.errors import PushtrainError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m infra.simulator", description=__doc__)
    parser.add_argument("--state", type=Path, required=True, help="folder of the account, its pods and volumes")
    parser.add_argument("--port", type=int, default=0, help="loopback port; 0: the last one, else a free one")
    parser.add_argument("--max-hours", type=float, default=12.0, help="stop itself and every pod after so long")
    parser.add_argument("--page-size", type=int, default=100, help="items a list page; 0: lists are not paged")
    parser.add_argument("--requests-per-minute", type=int, default=6000, help="quota after which it answers 429")
    parser.add_argument("--keep-pods", action="store_true", help="pods go on when the simulator is stopped")
    parser.add_argument("--no-trainer-python", action="store_true", help="do not lend this interpreter to pods")
    options = parser.parse_args()
    config = SimulatorConfig(
        state_dir=options.state,
        port=options.port,
        max_hours=options.max_hours,
        page_size=options.page_size or None,
        requests_per_minute=options.requests_per_minute,
        keep_pods=options.keep_pods,
        lend_python=not options.no_trainer_python,
    )
    try:
        serve(config, _announce)
    except PushtrainError as error:
        print(f"error: {error}" + (f" ({error.hint})" if error.hint else ""), file=sys.stderr)
        return error.exit_code
    return 0


def _announce(url: str, _: Mapping[str, str]) -> None:
    print(f"simulator on {url}; keys in keys.json of the state folder; Ctrl-C stops it and every pod", flush=True)


if __name__ == "__main__":
    sys.exit(main())
