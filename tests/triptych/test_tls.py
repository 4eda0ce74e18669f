"""Certificate files: taken up when whole, refused with the file's name when not."""

from pathlib import Path

import pytest

from triptych import tls
from triptych.certificates import Authority
from triptych.errors import InvalidArgument
from triptych.tls import CERT_FILE, KEY_FILE, Certificates, TlsFiles, check_host, is_loopback, server_credentials


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Authority().issue(tmp_path / "tls", ["localhost"])


def test_unchanged_files_are_the_same_object(folder: Path) -> None:
    certificates = Certificates(TlsFiles.in_folder(folder))
    assert certificates.current() is certificates.current()


def test_changed_files_are_taken_up_once(folder: Path) -> None:
    certificates = Certificates(TlsFiles.in_folder(folder))
    before = certificates.current()
    Authority().issue(folder, ["localhost"])
    after = certificates.current()
    assert after is not before
    assert after.cert == (folder / CERT_FILE).read_bytes() != before.cert
    assert certificates.current() is after


def test_half_of_a_rotation_is_not_taken_up(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A new certificate beside the old key, until the key comes too."""
    certificates = Certificates(TlsFiles.in_folder(folder))
    before = certificates.current()
    new = Authority().issue(tmp_path / "new", ["localhost"])
    (new / CERT_FILE).replace(folder / CERT_FILE)
    assert certificates.current() is before
    assert certificates.current() is before
    assert [record.message for record in caplog.records] == ["certificates not taken up"]
    (new / KEY_FILE).replace(folder / KEY_FILE)
    assert certificates.current().cert == (folder / CERT_FILE).read_bytes()


def test_files_that_vanish_change_nothing(folder: Path) -> None:
    certificates = Certificates(TlsFiles.in_folder(folder))
    before = certificates.current()
    (folder / KEY_FILE).unlink()
    assert certificates.current() is before


def test_a_file_that_vanishes_once_checked_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaced by removing and writing, it may be away for a moment, at any moment."""
    certificates = Certificates(TlsFiles.in_folder(folder))
    before = certificates.current()
    check = tls._check_pair

    def check_and_lose(cert: Path, key: Path) -> None:
        check(cert, key)
        key.unlink()

    Authority().issue(folder, ["localhost"])
    with monkeypatch.context() as patch:
        patch.setattr(tls, "_check_pair", check_and_lose)
        assert certificates.current() is before
    Authority().issue(folder, ["localhost"])
    assert certificates.current().cert == (folder / CERT_FILE).read_bytes()


def test_the_key_is_in_no_text(folder: Path) -> None:
    pem = Certificates(TlsFiles.in_folder(folder)).current()
    assert pem.key is not None
    assert pem.key.decode().splitlines()[1] not in repr(pem)


def test_keys_are_the_owners_alone(folder: Path) -> None:
    assert (folder / KEY_FILE).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["tls.crt", "tls.key", "ca.crt"])
def test_a_missing_or_broken_file_is_named(folder: Path, name: str) -> None:
    (folder / name).write_text("-----BEGIN CERTIFICATE-----\nnonsense\n")
    with pytest.raises(InvalidArgument, match=name):
        Certificates(TlsFiles.in_folder(folder))
    (folder / name).unlink()
    with pytest.raises(InvalidArgument, match=name):
        Certificates(TlsFiles.in_folder(folder))


def test_halves_are_refused(folder: Path) -> None:
    with pytest.raises(InvalidArgument, match="both or neither"):
        TlsFiles(cert=folder / CERT_FILE)
    with pytest.raises(InvalidArgument, match="tls-ca"):
        server_credentials(TlsFiles(folder / CERT_FILE, folder / KEY_FILE), require_client_cert=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost"])
def test_this_machine_alone_needs_no_tls(host: str) -> None:
    assert is_loopback(host)
    check_host(host, None, insecure=False)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "10.0.0.1", "example.org", "localhost.example.org", "127.0.0.1.nip.io"]
)
def test_an_address_for_others_needs_tls_or_a_word(host: str, folder: Path) -> None:
    with pytest.raises(InvalidArgument, match="without TLS"):
        check_host(host, None, insecure=False)
    check_host(host, None, insecure=True)
    check_host(host, TlsFiles.in_folder(folder), insecure=False)
    assert not is_loopback(host)
