"""What holds for every test."""

import os
import signal

import pytest

# What `make test` leaves to `make test-long`, so that it ends within ten minutes on two cores: each of these
# files looks at one part from many sides, and that part is also in a whole run of the others.
LONG = frozenset(
    f"test_{name}"
    for name in (
        "faults_real",
        "lambda_contract",
        "jarvis_contract",
        "ledger_load",
        "modal_contract",
        "pod_kills",
        "pod_network",
        "pod_ssh",
        "recipe_ssh",
        "recipes_session",
        "rehearsal",
        "replay",
        "setup_pulumi",
        "ssh",
        "ssh_codes",
        "ssh_files",
        "ssh_refusals",
        "ssh_tunnel",
        "trainer_copies",
        "trainer_dry_run",
        "trainer_fit",
        "trainer_methods",
        "trainer_parallel",
        "trainer_refused",
        "trainer_result",
        "trainer_resume",
        "trainer_stream",
        "trainer_tasks",
        "trainer_watch",
        "vast_contract",
        "volumes_files",
        "volumes_recipes",
        "whole_command",
        "whole_crash",
        "whole_lambda",
        "whole_modal",
        "whole_limits",
        "whole_jarvis",
        "whole_vast",
        "whole_live",
        "whole_session",
        "whole_stop",
        "workflow_ci",
        "workflow_steps",
    )
)

# Helpers with assertions of their own: else a module that imports one before it is a plugin gets bare AssertionErrors.
pytest.register_assert_rewrite("whole", "ssh_world", "simulator_fixtures")

# Workers side by side share the cores: threads that wait for each other by spinning take ten times as long there.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that runs the suite in the background ignores SIGINT, and every process inherits that; Ctrl-C is tested here.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem in LONG:
            item.add_marker(pytest.mark.long)
