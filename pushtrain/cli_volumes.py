"""`pushtrain volumes`: network volumes that outlive a run, and their files; part of the command line."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pushtrain.capabilities import CloudName
from pushtrain.terminal import out, print_drawn, print_json, say

if TYPE_CHECKING:
    from rich.table import Table

    from pushtrain.volumes.account import Account, Row
    from pushtrain.volumes.folders import Report
    from pushtrain.volumes.transfer import Transfer

volumes = typer.Typer(
    name="volumes",
    help="Network volumes: list, create, grow, copy, delete, and their files without a pod.",
    no_args_is_help=False,
    add_completion=False,
)
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="A kept volume's name, or any volume's id.")]
PartMb = Annotated[int, typer.Option("--part-mb", min=1, max=500, help="What is sent at once; a cut costs as much.")]
Size = Annotated[int, typer.Option("--size-gb", help="10 to 4096 at RunPod; a volume only ever grows.")]


@volumes.callback(invoke_without_command=True)
def list_volumes(context: typer.Context, as_json: Json = False) -> None:
    """Every network volume of every cloud with a key: where, how large, its price a month, whose it is, who uses it."""
    if context.invoked_subcommand is not None:
        return
    from pushtrain.fleet import members

    account = _account()
    rows = account.rows()
    if as_json:
        print_json([row.as_json() for row in rows])
    elif rows:
        print_drawn(_table(rows))
    else:
        several = len(members(account.cloud)) > 1
        out.print(f"no network volume in {'any account' if several else 'this account'}")


@volumes.command()
def create(
    name: Annotated[str, typer.Argument(help="What specs call it in compute.volume.name.")],
    data_center: Annotated[
        str,
        typer.Argument(metavar="DATA_CENTER", help="Where it lives, e.g. EU-RO-1; left out where a cloud has none."),
    ] = "",
    size_gb: Size = 50,
    cloud: Annotated[CloudName | None, typer.Option(help="Left out: RunPod, or the one with a key.")] = None,
    as_json: Json = False,
) -> None:
    """Make a kept volume before any job needs it; it is billed from now on, and pins its jobs to the place."""
    account = _account()
    made = account.create(name, size_gb, data_center, cloud or "")
    if as_json:
        print_json(account.one(made.id).as_json())


@volumes.command()
def grow(
    name: Name,
    size_gb: Annotated[int, typer.Argument(metavar="SIZE_GB", help="The new size; never smaller than before.")],
    as_json: Json = False,
) -> None:
    """Make a volume larger. It cannot shrink again."""
    account = _account()
    grown = account.grow(name, size_gb)
    if as_json:
        print_json(account.one(grown.id).as_json())


@volumes.command()
def delete(
    name: Name, yes: Annotated[bool, typer.Option("--yes", help="Delete it, with everything on it.")] = False
) -> None:
    """Delete a volume that nobody uses, and see that it is gone. The only way a kept volume ever goes."""
    from pushtrain.volumes.account import GONE_WITHIN_S

    give_up_s = time.monotonic() + GONE_WITHIN_S

    def wait() -> bool:
        time.sleep(1.0)
        return time.monotonic() < give_up_s

    _account().delete(name, yes=yes, wait=wait)


@volumes.command("ls")
def list_files(
    where: Annotated[str, typer.Argument(metavar="NAME[/PATH]", help="A volume, or what is below a path on it.")],
    as_json: Json = False,
) -> None:
    """Files on a volume, with their sizes; no pod is needed where the data center has RunPod's S3 API."""
    from pushtrain.volumes.files import open_store, place

    wanted = place(where)
    found = list(open_store(_account(), wanted.name, os.environ).files(wanted.path))
    if as_json:
        print_json([{"path": it.key, "size": it.size, "etag": it.etag} for it in found])
    else:
        out.print("\n".join(f"{it.size:>15,}  {it.key}" for it in found) or "no file")


@volumes.command()
def put(
    local: Annotated[Path, typer.Argument(metavar="LOCAL", help="A file; or a folder, whose content is sent.")],
    where: Annotated[str, typer.Argument(metavar="NAME[/PATH]", help="The volume, and where on it.")],
    part_mb: PartMb = 64,
) -> None:
    """Files onto a volume before any GPU is rented. Cut off, the same command goes on with what is missing."""
    from pushtrain.volumes import files

    _told(files.put(_account(), local, files.place(where), _transfer(part_mb)))


@volumes.command()
def get(
    where: Annotated[str, typer.Argument(metavar="NAME/PATH", help="A file on a volume, or what is below a path.")],
    local: Annotated[Path, typer.Argument(metavar="LOCAL", help="Where it goes.")],
    part_mb: PartMb = 64,
) -> None:
    """Files from a volume. Cut off, the same command goes on with what is missing."""
    from pushtrain.volumes import files

    _told(files.get(_account(), files.place(where), local, _transfer(part_mb)))


@volumes.command()
def rm(
    where: Annotated[str, typer.Argument(metavar="NAME/PATH", help="A file on a volume, or a folder with all in it.")],
    yes: Annotated[bool, typer.Option("--yes", help="Delete it; without, only say how much it is.")] = False,
) -> None:
    """Delete files of a volume, to make room without a pod."""
    from pushtrain.volumes.files import place, remove

    gone = remove(_account(), place(where), yes=yes)
    out.print(f"{len(gone)} files deleted")


def cp_volume(places: Sequence[str]) -> None:
    """`pushtrain cp` where one side is `volume:NAME/path`: by S3, without any pod."""
    from pushtrain.volumes import files

    files.check_places(places)
    *sources, target = places
    account, transfer = _account(), _transfer(64)
    for source in sources:
        if files.is_volume(target):
            _told(files.put(account, Path(source), files.place(target), transfer))
        else:
            _told(files.get(account, files.place(source), Path(target), transfer))


@volumes.command()
def copy(
    name: Name,
    data_center: Annotated[str, typer.Argument(metavar="DATA_CENTER", help="Where there are GPUs.")],
    new_name: Annotated[str, typer.Option("--as", help="The copy's name; left out: NAME-data-center.")] = "",
    part_mb: PartMb = 64,
    as_json: Json = False,
) -> None:
    """A volume's copy in another data center, through this machine. Cut off, the same command goes on."""
    from pushtrain.volumes.files import copy_volume

    account = _account()
    made, report = copy_volume(account, name, data_center, new_name=new_name, transfer=_transfer(part_mb))
    _told(report)
    if as_json:
        print_json(account.one(made.id).as_json() | {"files_sent": len(report.sent), "files_there": len(report.there)})


def _transfer(part_mb: int) -> "Transfer":
    from pushtrain.volumes.progress import progress_lines
    from pushtrain.volumes.transfer import Transfer

    return Transfer(sleep=time.sleep, progress=progress_lines(say, time.monotonic), part_bytes=part_mb * 10**6)


def _told(report: "Report") -> None:
    for path in report.left_out:
        say(f"left out, as it is a link or no file: {path}")
    size = f"{report.bytes_sent / 1e6:,.1f} MB"
    out.print(f"{len(report.sent)} files copied ({size}), {len(report.there)} were there; compared by MD5 and size")


def _account() -> "Account":
    from pushtrain.settings import load_settings
    from pushtrain.volumes.account import Account
    from pushtrain.wiring import open_clouds, open_ledger

    settings = load_settings(Path.cwd())
    return Account(cloud=open_clouds(), ledger=open_ledger(settings), say=say)


def _table(rows: "list[Row]") -> "Table":
    from rich.table import Table

    from pushtrain.volumes.kept import usd_per_month

    table = Table("volume", "id", "cloud", "data center", "GB", "$/month", "whose", "used by", box=None, pad_edge=False)
    for row in rows:
        it = row.volume
        usd = usd_per_month(it.size_gb, it.kind, row.cloud)
        month = "by what is on it" if usd is None else f"{usd:.2f}"
        size = str(it.size_gb or "")
        users = "not known" if row.runs is None and not row.pods else ", ".join(row.users) or "nobody"
        table.add_row(row.name, it.id, row.cloud, it.data_center, size, month, row.whose, users)
    return table
