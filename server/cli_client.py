"""`hotfeast get`, `services`, `describe` and `push`: a gateway, asked and fed from a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from hotfeast.server.cli_options import AddressOption

if TYPE_CHECKING:
    from hotfeast.clients import FeatureClient

TlsOption = Annotated[bool, typer.Option("--tls", help="Encrypt.")]
CaOption = Annotated[
    Path | None, typer.Option(help="PEM file of the authorities to trust; implies --tls.")
]
TokenOption = Annotated[
    str | None, typer.Option(help="Bearer token; needs --tls.", envvar="HOTFEAST_TOKEN")
]
TimeoutOption = Annotated[float, typer.Option(min=0.001, help="Seconds that a call may take.")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]
RowsOption = Annotated[
    Path | None, typer.Option(help="File of rows: .csv, .jsonl (an object a line) or .parquet.")
]

ADDRESS = "127.0.0.1:6570"
_TIMEOUT = 10.0
_PUSHED_AT_ONCE = 1000
_LONGEST_LIST = 10


class Target(StrEnum):
    """Where pushed rows go."""

    online = "online"
    offline = "offline"
    online_and_offline = "online_and_offline"


def get(
    what: Annotated[
        str,
        typer.Argument(
            metavar="SERVICE", help="A feature service, or VIEW:FEATURE,VIEW:FEATURE references."
        ),
    ],
    keys: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Join keys and request data; several rows are KEY=VALUE,VALUE.",
        ),
    ] = None,
    rows: RowsOption = None,
    full_feature_names: Annotated[
        bool, typer.Option("--full-feature-names", help="Name features VIEW__FEATURE.")
    ] = False,
    stale: Annotated[
        bool, typer.Option("--stale", help="Also values of rows that are OUTSIDE_MAX_AGE.")
    ] = False,
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Values as CSV, nothing for null.")] = False,
    address: AddressOption = ADDRESS,
    tls: TlsOption = False,
    ca: CaOption = None,
    token: TokenOption = None,
    timeout: TimeoutOption = _TIMEOUT,
) -> None:
    """Reads features: `hotfeast get recommendation user_id=1453,10 product_id=1110572,1082185`.

    Values are read as the types that the gateway's definitions declare.

    Exit codes: 0, 2 if the gateway refuses, cannot be asked, or rows cannot be read.
    """
    from hotfeast.server.answer_output import SHOWN_ROWS, answer_csv, answer_json, answer_table
    from hotfeast.server.typed_rows import columns_of_arguments, table_of_file

    if as_json and as_csv:
        raise typer.BadParameter("give --json or --csv", param_hint="--csv")
    if rows is not None and keys:
        raise typer.BadParameter("give --rows or KEY=VALUE arguments", param_hint="--rows")
    with _client(address, tls, ca, token, timeout) as client:
        references = what.split(",") if ":" in what else None
        types, in_request = _inputs(client, what, references)
        if rows is not None:
            table = table_of_file(rows, types)
            columns = {name: table.column(name).to_pylist() for name in table.column_names}
        else:
            columns = columns_of_arguments(keys or [], types)
        answer = client.get_online_features(
            references or what,
            {name: values for name, values in columns.items() if name not in in_request},
            request={name: values for name, values in columns.items() if name in in_request},
            full_feature_names=full_feature_names,
            include_stale_values=stale,
        )
    for warning in answer.warnings:
        typer.echo(f"hotfeast: {warning}", err=True)
    if as_json or as_csv:
        typer.echo(answer_json(answer) if as_json else answer_csv(answer))
        return
    _show(answer_table(answer))
    if len(answer) > SHOWN_ROWS:
        typer.echo(f"{len(answer) - SHOWN_ROWS} more rows: --json and --csv have all")


def services(
    as_json: JsonOption = False,
    address: AddressOption = ADDRESS,
    tls: TlsOption = False,
    ca: CaOption = None,
    token: TokenOption = None,
    timeout: TimeoutOption = _TIMEOUT,
) -> None:
    """Lists the feature services that a gateway serves.

    Exit codes: 0, 2 if the gateway cannot be asked.
    """
    from hotfeast.server.answer_output import add, message_json, table

    with _client(address, tls, ca, token, timeout) as client:
        found = client.feature_services()
    if as_json:
        typer.echo(message_json(found))
        return
    made = table("service", "join keys", "request data", "features", "owner", "description")
    for each in found:
        said = f"cannot be served: {each.error}" if each.error else each.description
        keys, asked = _names(each.join_keys), _names(each.request_fields)
        add(made, each.name, keys, asked, len(each.features), each.owner, said)
    _show(made)


def describe(
    name: Annotated[str, typer.Argument(metavar="VIEW", help="A feature view or a service.")],
    as_json: JsonOption = False,
    address: AddressOption = ADDRESS,
    tls: TlsOption = False,
    ca: CaOption = None,
    token: TokenOption = None,
    timeout: TimeoutOption = _TIMEOUT,
) -> None:
    """Shows a feature view, or a feature service: keys, features, types, owner, TTL.

    Exit codes: 0, 2 if there is none of the name, or the gateway cannot be asked.
    """
    from hotfeast.server.answer_output import add, message_json, table, type_name
    from hotfeast.server.errors import unknown_name

    with _client(address, tls, ca, token, timeout) as client:
        known = [*client.feature_views(), *client.feature_services()]
    found = [each for each in known if each.name == name]
    if not found:
        _fail(unknown_name("feature view or service", name, [k.name for k in known]).message)
    if as_json:
        typer.echo(message_json(found))
        return
    for each in found:
        facts = table("", "")
        for label, fact in _facts(each):
            if fact:
                add(facts, label, fact)
        facts.show_header = False
        _show(facts)
        columns = table("column", "role", "type", "description", "tags")
        roles = (
            ("join key", each.join_keys),
            ("request data", each.request_fields),
            ("feature", each.features),
        )
        for role, fields in roles:
            for field in fields:
                tags = _tags(field.tags)
                add(columns, field.name, role, type_name(field), field.description, tags)
        _show(columns)


def push(
    source: Annotated[str, typer.Argument(help="A push source, or with --view a feature view.")],
    rows: Annotated[
        Path, typer.Option(help="File of rows: .csv, .jsonl (an object a line) or .parquet.")
    ],
    view: Annotated[bool, typer.Option("--view", help="SOURCE is a feature view.")] = False,
    target: Annotated[Target, typer.Option(help="Where the rows go.")] = Target.online,
    address: AddressOption = ADDRESS,
    tls: TlsOption = False,
    ca: CaOption = None,
    token: TokenOption = None,
    timeout: TimeoutOption = _TIMEOUT,
) -> None:
    """Writes the rows of a file, a thousand at a time.

    Exit codes: 0 if every row is stored, or older than what is; 1 if some were rejected or failed;
    2 if the gateway refuses, cannot be asked, or rows cannot be read.
    """
    from hotfeast.server.typed_rows import table_of_file, types_of

    counts: dict[str, int] = {}
    reasons: list[str] = []
    with _client(address, tls, ca, token, timeout) as client:
        views = [v for v in client.feature_views() if v.name == source or not view]
        table = table_of_file(rows, types_of(chain.from_iterable(map(_fields, views))))
        for first in range(0, table.num_rows, _PUSHED_AT_ONCE):
            portion = table.slice(first, _PUSHED_AT_ONCE)
            result = client.push(
                portion,
                push_source=None if view else source,
                feature_view=source if view else None,
                target=target.value,
            )
            for outcome, count in result.counts.items():
                counts[outcome] = counts.get(outcome, 0) + count
            reasons += [f"row {first + r.row}: {r.message}" for r in result.rejections]
            reasons += [f"{f.target}, {f.feature_view}: {f.message}" for f in result.failures]
    said = ", ".join(f"{count:,} {outcome}" for outcome, count in counts.items())
    typer.echo(f"{source}: {said or 'no rows'}")
    for reason in reasons[:_LONGEST_LIST]:
        typer.echo(f"hotfeast: {reason}", err=True)
    if len(reasons) > _LONGEST_LIST:
        typer.echo(f"hotfeast: and {len(reasons) - _LONGEST_LIST:,} more", err=True)
    if reasons:
        raise typer.Exit(1)


@contextmanager
def _client(
    address: str, tls: bool, ca: Path | None, token: str | None, timeout: float
) -> Iterator["FeatureClient"]:
    from hotfeast.clients import FeatureClient, HotfeastError, Tls
    from hotfeast.server.typed_rows import BadRows

    try:
        with FeatureClient(
            address, timeout, tls=Tls(ca=ca) if tls or ca is not None else None, token=token
        ) as client:
            yield client
    except (HotfeastError, BadRows, OSError, ValueError, TypeError) as error:
        _fail(str(error))


def _inputs(
    client: "FeatureClient", what: str, references: list[str] | None
) -> tuple[dict[str, int], set[str]]:
    """The types of what can be sent, and which of it is request data. Where the definition itself
    does not say, as that of an alias or an on-demand view, others of the same name do."""
    from hotfeast.server.typed_rows import types_of

    if references is not None:
        names = {reference.partition(":")[0].partition("@")[0] for reference in references}
        known = client.feature_views()
    else:
        names = {what}
        known = client.feature_services()
    own = [each for each in known if each.name in names]
    keyed = {field.name for each in own or known for field in each.join_keys}
    asked = {field.name for each in own or known for field in each.request_fields}
    return types_of(_sent(known)) | types_of(_sent(own)), asked - keyed


def _sent(sources: list[Any]) -> Iterator[Any]:
    for source in sources:
        yield from source.join_keys
        yield from source.request_fields


def _facts(each: Any) -> Iterator[tuple[str, str]]:
    """What is to be said of a `FeatureViewInfo` or a `FeatureServiceInfo`; empty where nothing."""
    service = not hasattr(each, "kind")
    yield ("feature service" if service else each.kind.replace("_", " ")), each.name
    yield "description", each.description
    yield "owner", each.owner
    yield "tags", _tags(each.tags)
    if service:
        yield "views", ", ".join(each.feature_views)
        yield "cannot be served", each.error
        return
    yield "entities", ", ".join(each.entities)
    yield "TTL", str(each.ttl.ToTimedelta()) if each.HasField("ttl") else "rows do not expire"
    yield "online", "" if each.online else "no: online=False"
    if each.HasField("materialized_until"):
        yield "materialized until", each.materialized_until.ToJsonString()


def _fields(view: Any) -> Iterator[Any]:
    return chain(view.join_keys, view.features)


def _names(fields: Any) -> str:
    return ", ".join(field.name for field in fields)


def _tags(tags: Any) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(tags.items()))


def _show(table: Any) -> None:
    from hotfeast.server.terminal import consoles

    console, _ = consoles()
    console.print(table)


def _fail(message: str) -> NoReturn:
    typer.echo(f"hotfeast: {message}", err=True)
    raise typer.Exit(2)
