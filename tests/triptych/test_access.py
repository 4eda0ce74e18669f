"""What a client shows and sends, and what it refuses to send."""

from pathlib import Path

import pytest

from triptych.access import Access
from triptych.errors import InvalidArgument

KEY = "tk_secret"


def test_from_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Access.from_environment() == Access()
    monkeypatch.setenv("TRIPTYCH_TLS_CA", "ca.crt")
    monkeypatch.setenv("TRIPTYCH_API_KEY", KEY)
    access = Access.from_environment()
    assert (access.tls_ca, access.api_key, access.tls_cert) == (Path("ca.crt"), KEY, None)
    assert KEY not in repr(access)
    assert access.overridden(tls_ca=None, tls_server_name="x") == Access(
        tls_ca=Path("ca.crt"), tls_server_name="x", api_key=KEY
    )


def test_key_is_never_sent_in_the_open() -> None:
    access = Access(api_key=KEY)
    with pytest.raises(InvalidArgument, match="unencrypted") as refused:
        access.metadata("example.org:50050")
    assert KEY not in str(refused.value)
    sent = (("authorization", f"Bearer {KEY}"),)
    assert access.metadata("127.0.0.1:50050") == sent
    assert Access(api_key=KEY, tls_ca=Path("ca.crt")).metadata("example.org:50050") == sent
    assert Access(api_key=KEY, insecure=True).metadata("example.org:50050") == sent


def test_key_file_is_read_at_every_call(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("tk_one\n")
    access = Access(api_key_file=path)
    assert access.metadata("localhost:1") == (("authorization", "Bearer tk_one"),)
    path.write_text("tk_two\n")
    assert access.metadata("localhost:1") == (("authorization", "Bearer tk_two"),)


def test_a_key_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidArgument, match=str(path)):
        Access(api_key_file=path).metadata("localhost:1")


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "ümlaut", "x" * 9000])
def test_a_key_that_no_header_holds(key: str) -> None:
    with pytest.raises(InvalidArgument, match="printable ASCII") as refused:
        Access(api_key=key).metadata("localhost:1")
    assert key not in str(refused.value)
