"""Settings that would lose every job are refused, in one line."""

import pytest

from services.trainer.jobs.settings import JobSettings
from triptych.errors import InvalidArgument

LEASE_IS_ABC = "TRIPTYCH_JOBS_LEASE_S: Input should be a valid number, unable to parse string as a number, not 'abc'"


def test_a_trainer_is_gone_before_its_lease() -> None:
    settings = JobSettings.read()
    assert settings.safe_s == 44.0
    assert settings.safe_s + settings.grace_s < settings.lease_s


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"LEASE_S": "abc"}, LEASE_IS_ABC),
        ({"LEASE_S": "-1", "PATROL_S": "0"}, "TRIPTYCH_JOBS_LEASE_S: .*; TRIPTYCH_JOBS_PATROL_S: .* greater than 0"),
        ({"LEASE_S": "10", "BEAT_S": "10"}, "beat_s 10 must be below 4 "),
        ({"LEASE_S": "10", "BEAT_S": "4"}, "beat_s 4 must be below 4 "),
        ({"LEASE_S": "10", "GRACE_S": "10"}, "beat_s 1 must be below 0 "),
    ],
)
def test_what_cannot_be(values: dict[str, str], complaint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in values.items():
        monkeypatch.setenv(f"TRIPTYCH_JOBS_{key}", value)
    with pytest.raises(InvalidArgument, match=complaint) as raised:
        JobSettings.read()
    assert "\n" not in str(raised.value)
