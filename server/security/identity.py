"""Who a client's certificate says that it is."""

from typing import NamedTuple

from cryptography import x509
from cryptography.x509.oid import NameOID

LONGEST_NAME = 256
"""Characters of a name that a caller comes with: a certificate's, a token's, a role's."""

# Names of one certificate that are looked at.
_MOST_NAMES = 64


class Identity(NamedTuple):
    """A certificate's names, the one that it goes by first: of its subject alternative names URIs,
    DNS names and mail addresses, then the common name of its subject."""

    names: tuple[str, ...]


def identity_of_der(der: bytes) -> Identity | None:
    """Who a certificate is of, which has been verified; None where it names nobody.

    Raises:
        ValueError: It is none that can be read.
    """
    return _identity(x509.load_der_x509_certificate(der))


def identity_of_pem(pem: bytes) -> Identity | None:
    """The same, of a certificate in PEM."""
    return _identity(x509.load_pem_x509_certificate(pem))


def _identity(certificate: x509.Certificate) -> Identity | None:
    found: list[str] = []
    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        pass
    else:
        for kind in (x509.UniformResourceIdentifier, x509.DNSName, x509.RFC822Name):
            found += alternative.value.get_values_for_type(kind)
    found += [
        str(each.value) for each in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    ]
    names = dict.fromkeys(
        name for name in found if 0 < len(name) <= LONGEST_NAME and name.isprintable()
    )
    return Identity(tuple(names)[:_MOST_NAMES]) if names else None
