"""How much a caller may ask for: requests in a minute, and in a day. Plain policy: the clock is given."""

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from triptych.errors import ResourceExhausted

DAY_S: Final = 86_400.0
MINUTE_S: Final = 60.0
MAX_CALLERS: Final = 100_000  # tokens name their own subjects; the one seen longest ago is forgotten


@dataclass
class _Spent:
    """Of one caller: what is left of the minute's bucket, when it was last filled, and the day's count."""

    left: float
    filled_s: float
    day: int = -1
    in_day: int = 0


class Allowances:
    """Counts in this process's memory: each replica has counts of its own, and a restart forgets them.

    The minute is a bucket that fills steadily, so that a full one may be spent at once; the day is UTC's.
    """

    def __init__(self, now_s: Callable[[], float], max_callers: int = MAX_CALLERS) -> None:
        self._now_s = now_s
        self._max_callers = max_callers
        self._spent: OrderedDict[str, _Spent] = OrderedDict()

    def take(self, caller: str, name: str, per_minute: int, per_day: int) -> int:
        """One request of `caller`, whom errors call `name`; 0 is no bound. Returns the day it was counted in. Raises
        ResourceExhausted with the time until one more is allowed; a refused request is not counted."""
        now_s = self._now_s()
        spent = self._of(caller, per_minute, now_s)
        day = int(now_s // DAY_S)
        in_day = spent.in_day if spent.day == day else 0
        if per_day and in_day >= per_day:
            raise _exhausted(name, f"{per_day} requests a day", (day + 1) * DAY_S - now_s)
        if per_minute:
            rate = per_minute / MINUTE_S
            spent.left = min(float(per_minute), spent.left + max(0.0, now_s - spent.filled_s) * rate)
            spent.filled_s = now_s
            if spent.left < 1.0 - 1e-9:
                raise _exhausted(name, f"{per_minute} requests a minute", (1.0 - spent.left) / rate)
            spent.left -= 1.0
        spent.day, spent.in_day = day, in_day + 1
        return day

    def give_back(self, caller: str, day: int) -> None:
        """What `take` took, on that day."""
        spent = self._spent.get(caller)
        if spent is None:  # forgotten meanwhile
            return
        spent.left += 1.0  # more than a minute's are cut off at the next `take`
        if spent.day == day:
            spent.in_day -= 1

    def _of(self, caller: str, per_minute: int, now_s: float) -> _Spent:
        spent = self._spent.pop(caller, None) or _Spent(float(per_minute), now_s)
        self._spent[caller] = spent
        if len(self._spent) > self._max_callers:
            self._spent.popitem(last=False)
        return spent


def _exhausted(name: str, bound: str, wait_s: float) -> ResourceExhausted:
    wait_ms = max(1, math.ceil(wait_s * 1000))
    message = f"{name} has used its {bound}; retry after {wait_ms} ms"
    return ResourceExhausted(message, stage="orchestrator", retry_after_ms=wait_ms)
