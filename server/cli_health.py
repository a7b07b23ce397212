"""`hotfeast health`: whether a gateway is alive or ready, for probes and for people."""

from typing import Annotated, Any

import typer

from hotfeast.server.cli_client import (
    ADDRESS,
    CaOption,
    TimeoutOption,
    TlsOption,
    TokenOption,
)
from hotfeast.server.cli_options import AddressOption

_TIMEOUT = 2.0


def health(
    service: Annotated[
        str,
        typer.Argument(help="readiness, liveness, or the full name of a gRPC service."),
    ] = "readiness",
    address: AddressOption = ADDRESS,
    tls: TlsOption = False,
    ca: CaOption = None,
    token: TokenOption = None,
    timeout: TimeoutOption = _TIMEOUT,
) -> None:
    """Asks a gateway for its health (grpc.health.v1).

    Exit codes: 0 if it is SERVING, 1 if not, or if it cannot be asked.
    """
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from hotfeast.clients.connection import Connection, Tls

    try:
        connection = Connection(
            address, Tls(ca=ca) if tls or ca is not None else None, token, None, None
        )
        credentials = connection.credentials()
        options = connection.options()
    except (OSError, ValueError) as error:
        typer.echo(f"hotfeast: {error}", err=True)
        raise typer.Exit(1) from None
    channel = (
        grpc.insecure_channel(address, options)
        if credentials is None
        else grpc.secure_channel(address, credentials, options)
    )
    with channel:
        try:
            answer: Any = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=service), timeout=timeout
            )
        except grpc.RpcError as error:
            failed: Any = error
            said = failed.details() or failed.code().name
            typer.echo(f"hotfeast: {address}: {service}: {said}", err=True)
            raise typer.Exit(1) from None
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    typer.echo(f"{service}: {status}")
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise typer.Exit(1)
