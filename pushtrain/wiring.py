"""Puts a control plane together from the environment: the only place where pushtrain reaches into infra."""

import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pushtrain.capabilities import CLOUDS
from pushtrain.clock import CloudClock
from pushtrain.cloud import Cloud
from pushtrain.control import Control
from pushtrain.errors import GitHubError
from pushtrain.fleet import NoClient, members
from pushtrain.github.approval import Approvals
from pushtrain.github.client import connect as connect_github
from pushtrain.ledger import Ledger
from pushtrain.plan.expect import Expectations
from pushtrain.policy.licence import Licences
from pushtrain.policy.outside import Outside
from pushtrain.redact import redact
from pushtrain.settings import Settings, load_settings
from pushtrain.source import GitSource


def open_ledger(
    settings: Settings, environ: Mapping[str, str] | None = None, clock: Callable[[], float] = time.time
) -> Ledger:
    """The ledger alone: enough for the verbs that only read."""
    cache_dir = settings.state_dir / "ledger"
    return Ledger(settings.ledger_url, cache_dir=cache_dir, token=settings.ledger_token, environ=environ, clock=clock)


def open_cloud(environ: Mapping[str, str] | None = None, name: str = "runpod") -> Cloud:
    """The cloud alone, for verbs that rent no pod. Raises CloudAuthFailed without a key."""
    from infra.clouds import connect

    return connect(name, os.environ if environ is None else environ)


def open_clouds(environ: Mapping[str, str] | None = None) -> Cloud:
    """Every cloud that there is a key for. Raises CloudAuthFailed without any."""
    from infra.clouds import connect_all

    return connect_all(os.environ if environ is None else environ)


def open_control(root: Path, say: Callable[[str], None], environ: Mapping[str, str] | None = None) -> Control:
    """Everything a tick needs. Raises CloudAuthFailed without a key, EngineError for an unknown engine.

    Says first which engine it is: there is never a silent fallback.
    """
    from infra.clouds import connect_all
    from infra.engines import engine_line, select
    from infra.launch import make_launch

    environ = os.environ if environ is None else environ
    settings = load_settings(root, environ)
    engine = select(environ, state_dir=settings.state_dir / "stacks", say=say)
    say(engine_line(engine))
    cloud = connect_all(environ)
    said = CLOUDS[next(name for name, one in members(cloud).items() if not isinstance(one, NoClient))].pod
    clock = CloudClock(environ.get(said.base_url) or said.public_api, say)
    ledger = open_ledger(settings, environ, clock)
    return Control(
        settings=settings,
        source=GitSource(settings.root, settings.source_url, token=settings.ledger_token),
        ledger=ledger,
        cloud=cloud,
        engine=engine,
        launch=make_launch(settings, environ),
        say=lambda text: say(redact(text, environ)),
        clock=clock,
        sleep=time.sleep,
        expect=Expectations(settings.root, environ, ledger, say),
        outside=_outside(environ, say),
    )


def _outside(environ: Mapping[str, str], say: Callable[[str], None]) -> Outside:
    asked = _approvals(environ, say)
    return Outside(licence=Licences(environ), approved=asked, released=asked.released if asked else None)


def _approvals(environ: Mapping[str, str], say: Callable[[str], None]) -> Approvals | None:
    try:
        github = connect_github(environ)
    except GitHubError as wrong:
        say(f"without GitHub: {wrong}")
        return None
    return None if github is None else Approvals(github=github, workflow_run=environ.get("GITHUB_RUN_ID", ""))


def command() -> list[str]:
    """How to call this very pushtrain again in another process."""
    beside = Path(sys.executable).with_name("pushtrain")
    found = str(beside) if beside.exists() else shutil.which("pushtrain")
    return [found] if found else [sys.executable, "-m", "pushtrain"]
