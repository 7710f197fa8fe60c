"""The table of docs/clouds.md, of what `pushtrain.capabilities` says."""

from pushtrain.capabilities import CLOUDS, Capabilities


def table() -> list[str]:
    """The rows of docs/clouds.md, markdown."""
    clouds = CLOUDS.values()
    head = ["", *(can.title for can in clouds)]
    rows = [[what, *(_cell(say(can)) for can in clouds)] for what, say in _ROWS]
    return ["| " + " | ".join(row).strip() + " |" for row in [head, ["---"] * len(head), *rows]]


def _cell(value: object) -> str:
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def _files(can: Capabilities) -> str:
    return (
        "`pushtrain volumes`, by S3" if can.has_volume_files else f"no{can.files_instead and ': ' + can.files_instead}"
    )


_ROWS = (
    ("key of the account", lambda can: " and ".join(f"`{name}`" for name in can.key_names)),
    ("what is rented", lambda can: can.rents),
    ("`tiers`", lambda can: "; ".join(f"{tier}: {words}" for tier, words in can.tiers.items())),
    ("network volume that outlives the pod", lambda can: ", ".join(can.volume_tiers) or "no"),
    ("`data_centers` can be named", lambda can: can.has_data_centers),
    ("files of a volume without a pod", lambda can: _files(can)),
    ("interruptible machines", lambda can: can.spot),
    ("`image`", lambda can: f"no: its framework {can.framework}" if can.framework else "any"),
    ("`template`", lambda can: can.has_templates),
    ("`ports` as /http, by a proxy of the cloud", lambda can: can.has_http_proxy),
    ("`ports` as /tcp, and `ssh`", lambda can: can.has_tcp_ports),
    ("the account's ssh keys reach the pod", lambda can: can.has_ssh_keys),
    (
        "pushtrain's `ssh`, `cp`, `sync` and `tunnel` to a pod",
        lambda can: "yes" if can.has_tcp_ports else f"no: {can.way_in}",
    ),
    ("the pod gets a key that is good for itself alone", lambda can: can.has_scoped_key),
    ("a pod is in its list", lambda can: "once it has started" if can.listed_within_s else "from its create on"),
    ("how long a pod may live", lambda can: f"{can.longest_s / 3600:g} h" if can.longest_s else "as long as its run"),
    ("how a pod ends itself", lambda can: can.ends_itself),
    ("the bill ends at the deadline with no control plane alive", lambda can: can.ends_own_bill),
    ("log", lambda can: can.logs),
    ("bill", lambda can: can.bill),
)
