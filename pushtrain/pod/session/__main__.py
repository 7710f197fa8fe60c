"""`python -m pushtrain.pod.session --tools FOLDER`, started by the agent with the pod's environment.

Exit codes as a trainer's: 0 over, 1 failed, 75 stopped from outside: the next attempt opens the session again.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

from pushtrain.errors import PushtrainError
from pushtrain.ledger import Ledger
from pushtrain.pod.child import StopRequest
from pushtrain.pod.console import clean
from pushtrain.pod.context import LEDGER_TOKEN, read_context
from pushtrain.pod.session.cancelled import Cancelled
from pushtrain.pod.session.settings import read_settings
from pushtrain.pod.session.supervisor import Session, say, write_whole

CANCELLED_EVERY_TICKS = 15.0


def main() -> int:
    environ = dict(os.environ)
    context = read_context(environ)
    stop = StopRequest(context.stop_file)
    stop.listen()
    with tempfile.TemporaryDirectory(prefix="pushtrain-watch-") as cache:
        url, token = context.ledger_url, environ.get(LEDGER_TOKEN)
        ledger = Ledger(url, cache_dir=Path(cache) / "git", token=token, environ=environ)
        watch = Cancelled(ledger, context.run_id, CANCELLED_EVERY_TICKS * context.tick_s).start()
        tools = Path(sys.argv[sys.argv.index("--tools") + 1])
        try:
            return Session(
                context=context,
                settings=read_settings(environ),
                environ=environ,
                stop=stop,
                tools=tools,
                watch=watch,
            ).run()
        except (PushtrainError, OSError) as error:
            say(f"session failed: {error}")
            reason = getattr(error, "reason", "SessionFailed")
            failure = clean(json.dumps({"reason": reason, "message": str(error)}), environ)
            write_whole(context.attempt_dir / "failure.json", failure)
            return 1


if __name__ == "__main__":
    sys.exit(main())
