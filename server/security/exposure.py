"""What a gateway is exposed to by its address, which somebody has to have meant."""

import ipaddress
import socket

from hotfeast.server.errors import StartFailure
from hotfeast.server.settings import PageSettings, Settings


def check_exposure(settings: Settings) -> None:
    """Refuses addresses that others reach, where nobody is asked who calls.

    Raises:
        StartFailure: Such an address is not meant by any setting; the message says what to do.
    """
    if settings.metrics is not None and not settings.allow_unauthenticated:
        check_page_exposure(settings.metrics, settings.page)
    if is_loopback(settings.host):
        return
    where = f"{settings.host}:{settings.port}"
    identified = settings.tls is not None and settings.tls.requires_clients
    if settings.auth is None and not identified and not settings.allow_unauthenticated:
        raise StartFailure(
            f"on {where} whoever reaches it could read and write features: give --auth FILE, or "
            "--tls-client-ca FILE, bind a loopback address such as 127.0.0.1:6570, or say "
            "--allow-unauthenticated where the network keeps others out"
        )
    if settings.auth is not None and settings.tls is None and not settings.allow_plaintext:
        raise StartFailure(
            f"on {where} tokens would cross the network in the clear: give --tls-cert and "
            "--tls-key, or say --allow-plaintext where a proxy in front ends TLS"
        )


def check_page_exposure(address: tuple[str, int], page: PageSettings) -> None:
    """The same of the page of figures.

    Args:
        address: Its host and port.
        page: Who may see it.

    Raises:
        StartFailure: As `check_exposure`.
    """
    if is_loopback(address[0]):
        return
    where = f"{address[0]}:{address[1]}"
    identified = page.tls is not None and page.tls.client_ca is not None
    if page.tokens is None and not identified and not page.allow_unauthenticated:
        raise StartFailure(
            f"on {where} whoever reaches it could see figures: give --metrics-token-file FILE, or "
            "--metrics-tls-client-ca FILE, have --metrics on a loopback address such as "
            "127.0.0.1:9100, or say --metrics-allow-unauthenticated where the network keeps others "
            "out"
        )
    if page.tokens is not None and page.tls is None and not page.allow_plaintext:
        raise StartFailure(
            f"on {where} tokens for figures would cross the network in the clear: give "
            "--metrics-tls-cert and --metrics-tls-key, or say --metrics-allow-plaintext where a "
            "proxy in front ends TLS"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address; all that a name stands for.

    Args:
        host: An address or a name; brackets around an IPv6 address may be there or not.
    """
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)
    except OSError:
        # Whoever binds it is told so.
        return True
    return all(ipaddress.ip_address(str(each[4][0]).split("%")[0]).is_loopback for each in found)
