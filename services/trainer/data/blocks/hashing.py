"""A stable integer hash, so that pictures depend on their seed alone and on no library's generator."""

_MASK64 = (1 << 64) - 1


def mix(*keys: int) -> int:
    """A 64-bit hash of the integers, the same on every machine (splitmix64 over the keys)."""
    state = 0
    for key in keys:
        state = (state + (key & _MASK64) + 0x9E3779B97F4A7C15) & _MASK64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK64
        state ^= state >> 31
    return state
