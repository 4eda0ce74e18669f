"""Running out of memory is the fate of one request, not of the process."""

import traceback
from typing import Final

from triptych.errors import ResourceExhausted, TriptychError

# torch is not imported here; its CPU allocator raises a bare RuntimeError.
_NAMES: Final = ("OutOfMemoryError",)
_PHRASES: Final = ("out of memory", "can't allocate memory", "failed to allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` is Python's, torch's (CPU or CUDA) or ONNX Runtime's way of saying so."""
    if isinstance(error, MemoryError) or type(error).__name__ in _NAMES:
        return True
    is_ours = isinstance(error, TriptychError)  # may repeat what a user wrote
    return not is_ours and any(phrase in str(error).lower() for phrase in _PHRASES)


def too_large(name: str) -> ResourceExhausted:
    """No hint when to retry: the same request will not fit later either, unless the machine is less busy."""
    return ResourceExhausted(f"{name} ran out of memory over this request; the others go on")


def forget_frames(error: BaseException | None) -> None:
    """The frames that `error` passed through hold what was worked on, which may be large, for as long as it is kept."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
