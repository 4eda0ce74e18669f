"""Every error carries a real gRPC status name and the facts a caller needs."""

import grpc
import pytest

from triptych import errors

ALL = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.TriptychError)]


@pytest.mark.parametrize("error", ALL, ids=lambda e: e.__name__)
def test_code_names_a_grpc_status(error: type[errors.TriptychError]) -> None:
    assert error.code in grpc.StatusCode.__members__
    assert error.__doc__


def test_carries_stage_replica_and_retry() -> None:
    error = errors.Unavailable("no decoder serves", stage="decoder", replica="r1", retry_after_ms=250)
    assert (str(error), error.stage, error.replica, error.retry_after_ms) == ("no decoder serves", "decoder", "r1", 250)


def test_facts_are_optional() -> None:
    error = errors.InvalidArgument("top_k is -1, must be at least 0")
    assert (error.stage, error.replica, error.retry_after_ms) == ("", "", 0)


def test_codes_of_the_contract() -> None:
    assert {e.code for e in ALL} == {
        "INTERNAL",
        "INVALID_ARGUMENT",
        "UNAUTHENTICATED",
        "PERMISSION_DENIED",
        "FAILED_PRECONDITION",
        "RESOURCE_EXHAUSTED",
        "UNAVAILABLE",
        "DEADLINE_EXCEEDED",
        "CANCELLED",
        "UNIMPLEMENTED",
    }
