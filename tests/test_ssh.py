"""`pushtrain ssh`: onto the pod of a run, with the real client, against a real sshd."""

from pathlib import Path

from ssh_world import needs_clients, register
from whole import World

pytest_plugins = ("whole", "ssh_world")
pytestmark = needs_clients
THEIRS = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAtheirs theirs@home"


def test_a_command_runs_on_the_volume_in_the_environment_of_the_run(guest: World) -> None:
    line = 'pwd; echo "$PUSHTRAIN_RUN_ID|${HF_TOKEN:+is set}|${PUSHTRAIN_LEDGER_TOKEN:-}|$HOME"'
    said = guest.cli("ssh", "job", "--", line)
    assert said.returncode == 0, said
    here, what = said.stdout.splitlines()
    run = guest.newest()
    assert run is not None and Path(here, "runs", run.run_id).is_dir()
    assert what == f"{run.run_id}|is set||{what.rpartition('|')[2]}" and "/pods/" in what
    guest.assert_no_secret()


def test_the_exit_code_is_the_commands(guest: World) -> None:
    assert guest.cli("ssh", "job", "--", "exit 7").returncode == 7


def test_the_verb_registers_the_users_own_key_beside_the_others(guest: World) -> None:
    mine = Path(guest.env["HOME"], ".ssh", "id_ed25519.pub").read_text().strip()
    register(guest, THEIRS)
    first, second = guest.cli("ssh-key"), guest.cli("ssh-key")
    assert "is registered now; 1 other key kept" in first.stdout and "was registered already" in second.stdout
    assert guest.simulator.request("GET", "/v2/account/ssh-keys").json()["keys"] == [THEIRS, mine]
    register(guest, mine)
