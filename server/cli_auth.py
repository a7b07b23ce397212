"""`hotfeast auth` and `hotfeast token`: what a policy says, and tokens for it."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from hotfeast.server.cli_options import RepoOption, failures, option_time

app = typer.Typer(
    help="Who may do what by a policy, the file that `serve --auth` takes.", no_args_is_help=True
)
token_app = typer.Typer(
    help="Bearer tokens, of which a file keeps what they hash to.", no_args_is_help=True
)

_Auth = Annotated[Path, typer.Option("--auth", help="The policy.")]
_File = Annotated[Path, typer.Option("--file", help="The file of tokens that the policy names.")]


@app.command()
def check(auth: _Auth, repo: RepoOption = Path(".")) -> None:
    """Checks a policy, its tokens and keys, and whether its names are those of the repository.

    Exit codes: 0, 1 if a pattern matches nothing, 2 if something is not valid.
    """
    from hotfeast.server.security.explain import examine

    with failures():
        examined = examine(auth, repo)
    for line in examined.idle:
        typer.echo(f"hotfeast: {auth}: {line}", err=True)
    typer.echo(f"{auth}: valid; {examined.summary}")
    raise typer.Exit(1 if examined.idle else 0)


@app.command()
def can(
    who: Annotated[
        str,
        typer.Argument(
            help="token:NAME of the file of tokens, jwt:NAME, certificate:NAME or anonymous."
        ),
    ],
    do: Annotated[str, typer.Argument(help="read, push, describe or traffic.")],
    what: Annotated[
        str | None,
        typer.Argument(
            help="A feature service, VIEW:FEATURE,VIEW:FEATURE, a feature view or a push source; "
            "nothing for traffic."
        ),
    ] = None,
    auth: _Auth = Path("access.yaml"),
    repo: RepoOption = Path("."),
    role: Annotated[
        list[str] | None, typer.Option("--role", help="A role that the JWT has; may be repeated.")
    ] = None,
    group: Annotated[
        list[str] | None, typer.Option("--group", help="A group that it has; may be repeated.")
    ] = None,
) -> None:
    """Says whether somebody may do something, by the policy and the registry as they are now.

    Exit codes: 0 if it may be done, 1 if not, 2 if that cannot be told.
    """
    from hotfeast.server.security.explain import decide

    with failures():
        missing = decide(auth, repo, who, do, what, role or (), group or ())
    if missing is None:
        typer.echo("yes")
        return
    typer.echo(f"no: {missing}")
    raise typer.Exit(1)


@token_app.command()
def new(
    name: Annotated[str, typer.Argument(help="What policies and logs call it.")],
    file: _File,
    role: Annotated[
        list[str] | None, typer.Option("--role", help="A role of it; may be repeated.")
    ] = None,
    group: Annotated[
        list[str] | None, typer.Option("--group", help="A group of it; may be repeated.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="ISO 8601 time; without a zone it is UTC.")
    ] = None,
) -> None:
    """Makes a token, enters what it hashes to in the file, and prints it; it is kept nowhere.

    Exit codes: 0, and 2 if the file is not valid or cannot be written.
    """
    from pydantic import ValidationError

    from hotfeast.server.errors import StartFailure
    from hotfeast.server.security.faults import faults_of
    from hotfeast.server.security.tokens import Token, TokenError, add_token, hash_of, new_token

    ends = option_time(expires, "--expires")
    if ends is not None and ends <= datetime.now(UTC):
        raise typer.BadParameter("is in the past", param_hint="--expires")
    made = new_token()
    with failures():
        try:
            entry = Token(
                name=name, sha256=hash_of(made), roles=role or [], groups=group or [], expires=ends
            )
            add_token(file, entry)
        except ValidationError as error:
            raise StartFailure("; ".join(faults_of(error))) from None
        except TokenError as error:
            raise StartFailure(str(error)) from None
    typer.echo(f"hotfeast: {file} has what it hashes to; the token, shown once:", err=True)
    typer.echo(made)


@token_app.command()
def hash() -> None:
    """Prints what a token on standard input hashes to, for the sha256 of its entry.

    Exit codes: 0, and 2 if it is too short.
    """
    from hotfeast.server.errors import StartFailure
    from hotfeast.server.security.tokens import TokenError, hash_of

    with failures():
        try:
            typer.echo(hash_of(sys.stdin.read().strip()))
        except TokenError as error:
            raise StartFailure(str(error)) from None
