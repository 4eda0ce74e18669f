"""How a client gets in: which authority it trusts, the certificate it shows, and the key it sends."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Self

from triptych.errors import InvalidArgument
from triptych.tls import TlsFiles, is_loopback

VARIABLES: Final = {
    "tls_dir": "TRIPTYCH_TLS_DIR",
    "tls_ca": "TRIPTYCH_TLS_CA",
    "tls_cert": "TRIPTYCH_TLS_CERT",
    "tls_key": "TRIPTYCH_TLS_KEY",
    "tls_server_name": "TRIPTYCH_TLS_SERVER_NAME",
    "api_key": "TRIPTYCH_API_KEY",
    "api_key_file": "TRIPTYCH_API_KEY_FILE",
    "insecure": "TRIPTYCH_INSECURE",
}
MAX_KEY_CHARS: Final = 6144  # also a JWT's; gRPC drops some headers from 8 KiB up


@dataclass(frozen=True)
class Access:
    """TLS is on as soon as one of its fields is set; `tls_dir` holds ca.crt, and tls.crt with tls.key for mTLS.
    `api_key` is a key or a JWT, `api_key_file` a file that holds one and is read at every call. `insecure` lets the key
    travel unencrypted to another machine."""

    tls_dir: Path | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_server_name: str = ""
    api_key: str = field(default="", repr=False)
    api_key_file: Path | None = None
    insecure: bool = False

    @classmethod
    def from_environment(cls) -> Self:
        """TRIPTYCH_TLS_CA and so on; empty ones count as absent."""
        found = {name: os.environ.get(variable, "") for name, variable in VARIABLES.items()}
        return cls(
            tls_dir=_path(found["tls_dir"]),
            tls_ca=_path(found["tls_ca"]),
            tls_cert=_path(found["tls_cert"]),
            tls_key=_path(found["tls_key"]),
            tls_server_name=found["tls_server_name"],
            api_key=found["api_key"],
            api_key_file=_path(found["api_key_file"]),
            insecure=found["insecure"].lower() in ("1", "true", "yes"),
        )

    def overridden(self, **values: Path | str | None) -> Self:
        """With those that are set."""
        return replace(self, **{name: value for name, value in values.items() if value})  # type: ignore[arg-type]

    @property
    def tls(self) -> TlsFiles | None:
        """None: plaintext. Raises InvalidArgument for half a pair."""
        if self.tls_dir is not None:
            whole = TlsFiles.in_folder(self.tls_dir)
            shown = whole.cert is not None and whole.cert.exists()
            return whole if shown else TlsFiles(ca=whole.ca)
        if self.tls_ca or self.tls_cert or self.tls_key or self.tls_server_name:
            return TlsFiles(self.tls_cert, self.tls_key, self.tls_ca)
        return None

    def metadata(self, address: str) -> tuple[tuple[str, str], ...]:
        """What every call to `address` carries. Raises InvalidArgument for a key that anybody on the way could read, or
        that no header can hold; the key itself is in no message."""
        key = self.api_key or self._key_in_file()
        if not key:
            return ()
        if len(key) > MAX_KEY_CHARS or not key.isascii() or not key.isprintable() or " " in key:
            raise InvalidArgument(f"the API key must be 1 to {MAX_KEY_CHARS} printable ASCII characters without spaces")
        if self.tls is None and not self.insecure and not is_loopback(address.rpartition(":")[0]):
            raise InvalidArgument(
                f"the API key would travel to {address} unencrypted: set {VARIABLES['tls_ca']} or, where something "
                f"else guards the way, {VARIABLES['insecure']}=1"
            )
        return (("authorization", f"Bearer {key}"),)

    def _key_in_file(self) -> str:
        if self.api_key_file is None:
            return ""
        try:
            return self.api_key_file.read_text(encoding="utf-8").strip()
        except UnicodeDecodeError:
            raise InvalidArgument(f"{self.api_key_file} holds no API key: it is not text") from None


def _path(value: str) -> Path | None:
    return Path(value) if value else None
