"""Errors that know their gRPC status by name; `triptych.serving.interceptors` is the one place that translates them."""


class TriptychError(Exception):
    """Base of every error a caller may see. `code` is the name of a grpc.StatusCode."""

    code = "INTERNAL"

    def __init__(self, message: str, *, stage: str = "", replica: str = "", retry_after_ms: int = 0) -> None:
        super().__init__(message)
        self.stage = stage
        self.replica = replica
        self.retry_after_ms = retry_after_ms


class InvalidArgument(TriptychError):
    """The request itself is wrong: names the field, the value and the bound."""

    code = "INVALID_ARGUMENT"


class Unauthenticated(TriptychError):
    """No credential, or none that is valid. Never repeats what was sent."""

    code = "UNAUTHENTICATED"


class PermissionDenied(TriptychError):
    """Known, and not allowed: says what is missing."""

    code = "PERMISSION_DENIED"


class FailedPrecondition(TriptychError):
    """No compatible chain: names both cards and the spaces."""

    code = "FAILED_PRECONDITION"


class ResourceExhausted(TriptychError):
    """A queue is full or a quota is spent: says which, and when to retry."""

    code = "RESOURCE_EXHAUSTED"


class Unavailable(TriptychError):
    """A stage has no serving replica: names the stage; safe to retry."""

    code = "UNAVAILABLE"


class DeadlineExceeded(TriptychError):
    """The caller's deadline passed."""

    code = "DEADLINE_EXCEEDED"


class Cancelled(TriptychError):
    """The caller went away, or stopped reading."""

    code = "CANCELLED"


class Unimplemented(TriptychError):
    """This model or backend cannot do what was asked: names it."""

    code = "UNIMPLEMENTED"


class CheckpointError(TriptychError):
    """A checkpoint folder is missing, half-copied, tampered with or malformed: names the file."""

    code = "FAILED_PRECONDITION"


class ProbeError(TriptychError):
    """A golden probe missed its cosine: the replica must not serve."""

    code = "FAILED_PRECONDITION"


class ExportError(TriptychError):
    """An export does not compute what its component does: names the part, its cosine and the bar. Or a part has no
    form that can be computed there: says why."""

    code = "FAILED_PRECONDITION"
