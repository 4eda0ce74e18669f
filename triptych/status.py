"""TriptychError <-> gRPC status: the trailing metadata servers send and callers read. Needs only the base install."""

from typing import Final

import grpc

from triptych import errors

STAGE: Final = "stage"
REPLICA: Final = "replica"
RETRY_AFTER_MS: Final = "retry-after-ms"

_BY_CODE: Final[dict[str, type[errors.TriptychError]]] = {
    error.code: error
    for error in (
        errors.InvalidArgument,
        errors.Unauthenticated,
        errors.PermissionDenied,
        errors.FailedPrecondition,
        errors.ResourceExhausted,
        errors.Unavailable,
        errors.DeadlineExceeded,
        errors.Cancelled,
        errors.Unimplemented,
    )
}


def error_from_rpc(error: grpc.aio.AioRpcError) -> errors.TriptychError:
    """The error a server raised, as its caller sees it. Codes outside the contract become TriptychError (INTERNAL)."""
    facts = {key: value for key, value in error.trailing_metadata() or () if isinstance(value, str)}
    retry_after_ms = facts.get(RETRY_AFTER_MS, "0")
    kind = _BY_CODE.get(error.code().name, errors.TriptychError)
    return kind(
        error.details() or error.code().name,
        stage=facts.get(STAGE, ""),
        replica=facts.get(REPLICA, ""),
        retry_after_ms=int(retry_after_ms) if retry_after_ms.isdecimal() else 0,
    )


def trailing_metadata(error: errors.TriptychError) -> tuple[tuple[str, str], ...]:
    """The facts of `error` that are set."""
    facts = ((STAGE, error.stage), (REPLICA, error.replica), (RETRY_AFTER_MS, str(error.retry_after_ms or "")))
    return tuple((key, value) for key, value in facts if value)
