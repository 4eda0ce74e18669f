"""Certificates for trying things out: an authority of one's own, and what it signs. `triptych up --tls` and the tests
use it; a real installation has an authority already (docs/security.md). Needs `cryptography`, which the orchestrator's
extra brings.
"""

import ipaddress
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from triptych.private_file import write_private
from triptych.tls import CA_FILE, CERT_FILE, KEY_FILE

VALID: Final = timedelta(days=30)
CLOCK_SKEW: Final = timedelta(minutes=5)


class Authority:
    """Signs certificates; its key lives as long as this object and is never written."""

    def __init__(self, name: str = "triptych local authority") -> None:
        """Makes a key."""
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(f"{name} {secrets.token_hex(4)}")  # two authorities of one name confuse verifiers
        builder = _builder(self._name, self._name, self._key)
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        self._certificate = (
            builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def issue(self, folder: Path, names: Sequence[str]) -> Path:
        """Writes tls.crt, tls.key and ca.crt into `folder`, for a server or client known by `names` (host names and IP
        addresses), and returns the folder. What was there is replaced file by file."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_named(names[0]), self._name, key)
        both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        certificate = (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
            .add_extension(both, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        folder.mkdir(parents=True, exist_ok=True)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_private(folder / KEY_FILE, pem)
        write_private(folder / CERT_FILE, certificate.public_bytes(Encoding.PEM))
        write_private(folder / CA_FILE, self._certificate.public_bytes(Encoding.PEM))
        return folder


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + VALID)
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
