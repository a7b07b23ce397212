"""`hotfeast traffic`: aliases of a gateway, listed, changed and compared."""

import getpass
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from hotfeast.server.cli_options import AddressOption, RepoOption, failures

app = typer.Typer(
    help="Versions side by side: shares of the feature services that an alias stands for.",
    no_args_is_help=True,
)

ReasonOption = Annotated[str, typer.Option(help="For the record of changes.")]
WhoOption = Annotated[
    str | None, typer.Option(help="Who makes the change; USER@HOST unless given.")
]
RevisionOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="The revision that the alias must be at; 0: not there yet. Unless given, the one that "
        "is found before the change is made.",
    ),
]
AliasArgument = Annotated[str, typer.Argument(help="An alias.")]

_ADDRESS = "127.0.0.1:6570"
# Seconds.
_TIMEOUT = 10.0


@app.command("list")
def list_aliases(address: AddressOption = _ADDRESS) -> None:
    """Shows the aliases.

    Exit codes: 0, 1 if the file of aliases is not in force as it is, 2 if the gateway cannot be
    asked.
    """
    with _gateway(address) as traffic:
        answer = traffic.aliases()
    table = _Rows("alias", "revision", "target", "share", "sticky by", "shadow")
    for alias in answer.aliases:
        shadow = f"{alias.shadow.target} {alias.shadow.share:g}%" if alias.shadow.target else ""
        for number, target in enumerate(alias.targets):
            first = number == 0
            table.add(
                alias.name if first else "",
                str(alias.revision) if first else "",
                target.name,
                f"{target.share:g}%",
                ", ".join(alias.sticky_by) or "all join keys" if first else "",
                shadow if first else "",
            )
    table.show()
    if answer.error:
        typer.echo(f"hotfeast: {answer.path} is not in force as it is: {answer.error}", err=True)
        raise typer.Exit(1)


@app.command("set")
def set_alias(
    alias: AliasArgument,
    targets: Annotated[
        list[str],
        typer.Argument(help="SERVICE=PERCENT for each target; they add up to 100."),
    ],
    address: AddressOption = _ADDRESS,
    sticky_by: Annotated[
        list[str] | None,
        typer.Option(help="A join key that requests are told apart by; as before unless given."),
    ] = None,
    shadow: Annotated[
        str | None,
        typer.Option(help="SERVICE=PERCENT of what is read beside it; as before unless given."),
    ] = None,
    no_shadow: Annotated[bool, typer.Option("--no-shadow", help="No shadow any more.")] = False,
    revision: RevisionOption = None,
    reason: ReasonOption = "",
    who: WhoOption = None,
) -> None:
    """Sets the shares of an alias, new or not.

    Exit codes: 0, 2 if the change is not made.
    """
    if shadow is not None and no_shadow:
        raise typer.BadParameter("goes without --no-shadow", param_hint="--shadow")
    shares = [_share(target, "TARGETS") for target in targets]
    beside = _share(shadow, "--shadow") if shadow is not None else None
    with _gateway(address, who) as traffic:
        before = traffic.find(alias)
        made = traffic.set(
            alias,
            shares,
            sticky_by if sticky_by is not None else list(before.sticky_by) if before else [],
            beside or (None if no_shadow or before is None else _shadow_of(before)),
            revision if revision is not None else before.revision if before is not None else 0,
            reason,
        )
    _say(made)


@app.command()
def remove(
    alias: AliasArgument,
    address: AddressOption = _ADDRESS,
    revision: RevisionOption = None,
    reason: ReasonOption = "",
    who: WhoOption = None,
) -> None:
    """Removes an alias.

    Exit codes: 0, 2 if it is not removed.
    """
    with _gateway(address, who) as traffic:
        traffic.remove(alias, revision, reason)
    typer.echo(f"{alias} is removed")


@app.command()
def rollback(
    alias: AliasArgument,
    to: Annotated[
        int | None,
        typer.Option(min=1, help="A revision; the state before the last change unless given."),
    ] = None,
    address: AddressOption = _ADDRESS,
    revision: RevisionOption = None,
    reason: ReasonOption = "",
    who: WhoOption = None,
) -> None:
    """Makes an alias what it was before its last change.

    Exit codes: 0, 2 if it stays as it is.
    """
    with _gateway(address, who) as traffic:
        made = traffic.roll_back(alias, to, revision, reason)
    _say(made)


@app.command()
def log(
    alias: Annotated[str, typer.Argument(help="An alias; all unless given.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="Changes at most, newest first.")] = 20,
    address: AddressOption = _ADDRESS,
) -> None:
    """Shows who changed what, when and why.

    Exit codes: 0, 2 if the gateway cannot be asked.
    """
    with _gateway(address) as traffic:
        changes = traffic.changes(alias, limit)
    table = _Rows("time", "alias", "revision", "what", "who", "from", "before", "after", "why")
    for change in changes:
        table.add(
            change.time.ToDatetime().isoformat(timespec="seconds") + "Z",
            change.alias,
            str(change.revision),
            change.action,
            change.who,
            change.peer,
            _shares(change.before),
            _shares(change.after),
            change.reason,
        )
    table.show()


@app.command()
def compare(
    alias: Annotated[str, typer.Argument(help="An alias; all unless given.")] = "",
    address: AddressOption = _ADDRESS,
) -> None:
    """Shows what shadow reads found, feature by feature.

    Exit codes: 0 if all values were equal, 1 if some were not, 2 if the gateway cannot be asked.
    """
    with _gateway(address) as traffic:
        comparisons = traffic.compare(alias)
    unequal = False
    for each in comparisons:
        typer.echo(
            f"{each.alias}: {each.target}, and {each.shadow} in its shadow: "
            f"{each.compared:,} requests compared, {each.changed:,} with a row written meanwhile, "
            f"{each.failed:,} failed, {each.dropped:,} dropped"
        )
        if each.last_error:
            typer.echo(f"  the last that failed: {each.last_error}")
        table = _Rows("feature", "equal", "different", "missing", "added", "for example")
        for feature in each.features:
            differs = feature.different + feature.missing + feature.added
            unequal = unequal or bool(differs)
            counts = (feature.equal, feature.different, feature.missing, feature.added)
            table.add(feature.name, *(f"{count:,}" for count in counts), _example(feature))
        table.show()
    if not comparisons:
        typer.echo("no shadow read has been compared")
    if unequal:
        raise typer.Exit(1)


@app.command()
def distributions(
    monitor_dir: Annotated[
        Path, typer.Option(help="What a gateway has seen: the folder of its --monitor-dir.")
    ],
    alias: Annotated[str, typer.Argument(help="An alias; not with --targets.")] = "",
    targets: Annotated[
        tuple[str, str] | None,
        typer.Option(help="Two feature services, or views at a version, instead of an alias."),
    ] = None,
    aliases: Annotated[
        Path | None,
        typer.Option(help="The file of aliases; unless given, the gateway at --address is asked."),
    ] = None,
    repo: RepoOption = Path("."),
    address: AddressOption = _ADDRESS,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Shows how the features that targets share are distributed, by what was served lately: each
    target beside the first one.

    Monitoring keeps statistics by view and feature. Where two targets read the same feature of the
    same view there is nothing to compare; rows that others read of a view count, too, and are told.

    Exit codes: 0 if nothing that could be tested differs, 1 if a feature does, 2 if nothing could
    be compared.
    """
    if bool(alias) == (targets is not None):
        raise typer.BadParameter("name an alias, or two targets with --targets", param_hint="ALIAS")
    if aliases is not None and targets is not None:
        raise typer.BadParameter("goes without --targets", param_hint="--aliases")
    names = list(targets) if targets is not None else _targets_of(alias, aliases, address)
    # Only now: Feast takes seconds to import, and a wrong option should be told at once.
    from hotfeast.server.registry import read_definitions
    from hotfeast.server.repository import open_repository, reading_registry
    from hotfeast.server.terminal import consoles
    from hotfeast.server.traffic.distributions import compare_targets
    from hotfeast.server.traffic.distributions_table import print_distributions

    with failures():
        store = open_repository(repo)
        with reading_registry(store):
            definitions = read_definitions(store)
        made = compare_targets(definitions, monitor_dir, names)
    if as_json:
        typer.echo(json.dumps(made.to_dict(), indent=2))
    else:
        console, _ = consoles()
        print_distributions(console, made)
    if made.exit_code == 2:
        typer.echo("hotfeast: no feature could be tested", err=True)
    raise typer.Exit(made.exit_code)


def _targets_of(name: str, path: Path | None, address: str) -> list[str]:
    """The targets of an alias, by the file, or the gateway where there is none."""
    if path is None:
        with _gateway(address) as traffic:
            found = traffic.find(name)
        targets = [target.name for target in found.targets] if found is not None else None
        where = f"the gateway at {address}"
    else:
        from hotfeast.server.traffic.aliases import AliasError, read_aliases

        try:
            alias = read_aliases(path.read_text(encoding="utf-8")).get(name)
        except (OSError, UnicodeDecodeError, AliasError) as error:
            _fail(f"{path}: {error}")
        targets = [target for target, _ in alias.targets] if alias is not None else None
        where = str(path)
    if targets is None:
        _fail(f"{where} has no alias {name!r}; hotfeast traffic list shows those of a gateway")
    if len(targets) < 2:
        _fail(
            f"alias {name!r} has one target, {targets[0]!r}; --targets compares any two, such as "
            f"--targets {targets[0]} OTHER"
        )
    return targets


class _Traffic:
    """A gateway's `Traffic`, as the commands want it."""

    def __init__(self, channel: Any, who: str | None) -> None:
        from hotfeast.serving.v1 import traffic_pb2, traffic_pb2_grpc

        self._pb2: Any = traffic_pb2
        self._stub: Any = traffic_pb2_grpc.TrafficStub(channel)  # type: ignore[no-untyped-call]
        self._metadata = (("x-caller", who or f"{_user()}@{socket.gethostname()}"),)

    def aliases(self) -> Any:
        return self._call("ListAliases", self._pb2.ListAliasesRequest())

    def find(self, name: str) -> Any:
        return next((alias for alias in self.aliases().aliases if alias.name == name), None)

    def set(
        self,
        name: str,
        shares: list[tuple[str, float]],
        sticky_by: list[str],
        shadow: tuple[str, float] | None,
        revision: int,
        reason: str,
    ) -> Any:
        alias = self._pb2.Alias(name=name, sticky_by=sticky_by)
        for target, share in shares:
            alias.targets.add(name=target, share=share)
        if shadow is not None:
            alias.shadow.target, alias.shadow.share = shadow
        request = self._pb2.SetAliasRequest(alias=alias, expected_revision=revision, reason=reason)
        return self._call("SetAlias", request).alias

    def remove(self, name: str, revision: int | None, reason: str) -> None:
        self._call(
            "RemoveAlias",
            self._pb2.RemoveAliasRequest(name=name, expected_revision=revision, reason=reason),
        )

    def roll_back(self, name: str, to: int | None, revision: int | None, reason: str) -> Any:
        request = self._pb2.RollbackAliasRequest(
            name=name, to_revision=to, expected_revision=revision, reason=reason
        )
        return self._call("RollbackAlias", request).alias

    def changes(self, name: str, limit: int) -> Any:
        request = self._pb2.ListAliasChangesRequest(name=name, limit=limit)
        return self._call("ListAliasChanges", request).changes

    def compare(self, name: str) -> Any:
        return self._call("CompareShadows", self._pb2.CompareShadowsRequest(name=name)).comparisons

    def _call(self, method: str, request: Any) -> Any:
        import grpc

        try:
            return getattr(self._stub, method)(request, timeout=_TIMEOUT, metadata=self._metadata)
        except grpc.RpcError as error:
            failed: Any = error
            _fail(f"{failed.code().name}: {failed.details()}")


@contextmanager
def _gateway(address: str, who: str | None = None) -> Iterator[_Traffic]:
    import grpc

    with grpc.insecure_channel(address) as channel:
        yield _Traffic(channel, who)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A user id that no name is known of.
        return "unknown"


def _fail(message: str) -> NoReturn:
    typer.echo(f"hotfeast: {message}", err=True)
    raise typer.Exit(2)


def _share(text: str, name: str) -> tuple[str, float]:
    target, sign, share = text.rpartition("=")
    try:
        if sign and target:
            return target, float(share.removesuffix("%"))
    except ValueError:
        pass
    raise typer.BadParameter(
        f"{text!r} must have the form SERVICE=PERCENT, for example ranking_v2=10", param_hint=name
    )


def _shadow_of(alias: Any) -> tuple[str, float] | None:
    return (alias.shadow.target, alias.shadow.share) if alias.shadow.target else None


def _shares(alias: Any) -> str:
    shares = [f"{target.name} {target.share:g}%" for target in alias.targets]
    if alias.shadow.target:
        shares.append(f"shadow {alias.shadow.target} {alias.shadow.share:g}%")
    return ", ".join(shares)


def _example(feature: Any) -> str:
    if not feature.examples:
        return ""
    example = feature.examples[-1]
    entity = ", ".join(f"{name}={value}" for name, value in sorted(example.entity.items()))
    return f"{entity}: {example.answer}, and {example.shadow}"


def _say(alias: Any) -> None:
    typer.echo(f"{alias.name} is at revision {alias.revision}: {_shares(alias)}")


class _Rows:
    """A table of plain text: names are no markup."""

    def __init__(self, *headings: str) -> None:
        from rich.table import Table

        self._table = Table(box=None)
        for heading in headings:
            self._table.add_column(heading, overflow="fold")

    def add(self, *cells: str) -> None:
        from rich.text import Text

        self._table.add_row(*map(Text, cells))

    def show(self) -> None:
        from hotfeast.server.terminal import consoles

        console, _ = consoles()
        console.print(self._table)
