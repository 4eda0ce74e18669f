"""Certificates from files, for servers and channels, taken up again when the files change. Base install only.

Both sides show a certificate and check the other's against the authority in `ca` (mTLS). gRPC reads a channel's
certificates once, so whoever keeps a channel for long asks for `Certificates.current` and opens a new one.
"""

import ipaddress
import logging
import ssl
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import grpc

from triptych.errors import InvalidArgument

log = logging.getLogger(__name__)

# As cert-manager and Kubernetes' own TLS secrets name them.
CERT_FILE: Final = "tls.crt"
KEY_FILE: Final = "tls.key"
CA_FILE: Final = "ca.crt"
MAX_FILE_BYTES: Final = 1024 * 1024

Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class TlsFiles:
    """PEM files. `cert` may hold the whole chain; without `ca` a client trusts gRPC's own list of authorities."""

    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise InvalidArgument("a certificate and its key belong together: tls-cert and tls-key, both or neither")

    @classmethod
    def in_folder(cls, folder: Path) -> Self:
        return cls(folder / CERT_FILE, folder / KEY_FILE, folder / CA_FILE)

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(path for path in (self.cert, self.key, self.ca) if path is not None)


@dataclass(frozen=True)
class Pem:
    """What the files held at one moment."""

    cert: bytes | None
    key: bytes | None = field(repr=False)
    ca: bytes | None


class Certificates:
    """The files' content now. A half-written or mismatched set is not taken up: the last good one stays in use."""

    def __init__(self, files: TlsFiles) -> None:
        """Raises InvalidArgument naming the file when one is missing, or the key is not the certificate's."""
        self._files = files
        self._lock = threading.Lock()
        self._seen = self._stamp()
        self._refused: Stamp | None = None
        self._pem = self._read()

    def current(self) -> Pem:
        """Reads the files again if they changed; another object than before when they did. Called at every handshake:
        three stats when nothing happened. From any thread."""
        with self._lock:
            self._renew()
            return self._pem

    def _renew(self) -> None:
        try:
            stamp = self._stamp()
            if stamp in (self._seen, self._refused):
                return
            self._refused = stamp  # said once, not at every handshake
            pem = self._read()
            if self._stamp() != stamp:  # written meanwhile: next time
                return
        except InvalidArgument as error:
            log.warning("certificates not taken up", extra={"reason": str(error)})
            return
        self._seen, self._refused, self._pem = stamp, None, pem
        log.info("certificates taken up", extra={"files": ", ".join(str(path) for path in self._files.paths)})

    def _stamp(self) -> Stamp:
        try:
            found = [path.stat() for path in self._files.paths]
        except OSError as error:
            raise InvalidArgument(f"{error.filename}: {error.strerror}") from error
        return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in found)

    def _read(self) -> Pem:
        files = self._files
        if files.cert is not None and files.key is not None:
            _check_pair(files.cert, files.key)
        if files.ca is not None:
            _check_authority(files.ca)
        return Pem(_content(files.cert), _content(files.key), _content(files.ca))


def server_credentials(files: TlsFiles, *, require_client_cert: bool) -> grpc.ServerCredentials:
    """Asks the files again at every new connection. Raises InvalidArgument when they cannot be used as they are."""
    if files.cert is None or (require_client_cert and files.ca is None):
        raise InvalidArgument("a server needs tls-cert and tls-key, and tls-ca to check callers' certificates")
    certificates = Certificates(files)

    in_use = certificates.current()

    def configuration(pem: Pem) -> grpc.ServerCertificateConfiguration:
        assert pem.key is not None, "checked above"
        assert pem.cert is not None, "checked above"
        roots = pem.ca if require_client_cert else None
        return grpc.ssl_server_certificate_configuration([(pem.key, pem.cert)], roots)

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal in_use
        before, in_use = in_use, certificates.current()
        return configuration(in_use) if in_use is not before else None

    # None says that nothing changed; the stub does not know.
    return grpc.dynamic_ssl_server_credentials(configuration(in_use), fetch, require_client_cert)  # type: ignore[arg-type]


def channel_credentials(pem: Pem) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(pem.ca, pem.key, pem.cert)


def name_options(server_name: str) -> tuple[tuple[str, str], ...]:
    """Channel options that demand a certificate for `server_name`, where the address says something else."""
    if not server_name:
        return ()
    return (("grpc.ssl_target_name_override", server_name), ("grpc.default_authority", server_name))


def check_host(host: str, files: TlsFiles | None, *, insecure: bool) -> None:
    """Raises InvalidArgument for an address that others reach, without TLS and without saying so."""
    if files is None and not insecure and not is_loopback(host):
        raise InvalidArgument(
            f"host is {host!r}, which other machines reach, without TLS: set tls-dir (or tls-cert, tls-key and "
            "tls-ca), or insecure where something else guards the way"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it. A name other than localhost may lead anywhere."""
    if host == "localhost" or host.startswith("unix:"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _content(path: Path | None) -> bytes | None:
    try:
        return path.read_bytes() if path is not None else None
    except OSError as error:  # taken away since it was checked: it is being replaced
        raise InvalidArgument(f"{path}: {error.strerror}") from error


def _check_pair(cert: Path, key: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=_no_password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise InvalidArgument(f"{cert} and {key} are no certificate and its key: {error}") from error


def _check_authority(ca: Path) -> None:
    try:
        if ca.stat().st_size > MAX_FILE_BYTES:
            raise InvalidArgument(f"{ca} has {ca.stat().st_size} bytes, must have at most {MAX_FILE_BYTES}")
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(ca)
    except OSError as error:
        raise InvalidArgument(f"{ca} holds no certificate of an authority: {error}") from error


def _no_password() -> str:
    """OpenSSL would ask the terminal otherwise."""
    raise ValueError("the key is encrypted, must not be")
