"""`hotfeast traffic`: aliases of a gateway that runs, listed, changed and compared."""

import getpass
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer

app = typer.Typer(
    help="Versions side by side: shares of the feature services that an alias stands for.",
    no_args_is_help=True,
)

AddressOption = Annotated[str, typer.Option(help="HOST:PORT of the gateway.")]
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
