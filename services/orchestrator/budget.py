"""How much may be tried again: an outage must not become a storm of retries. Plain Python."""


class RetryBudget:
    """As gRPC's retry throttling, for all replicas together: each call earns a part of a retry, each retry costs one,
    and no more than `burst` are saved. The burst must cover what one replica has under way when it dies.
    """

    def __init__(self, ratio: float, burst: int) -> None:
        """`ratio`: retries earned by a call."""
        self._ratio = ratio
        self._burst = burst
        self.balance = float(burst)

    def called(self) -> None:
        """A stage was called for the first time in its request."""
        self.balance = min(float(self._burst), self.balance + self._ratio)

    def spend(self) -> bool:
        """Whether one more retry may be made; it is paid for."""
        if self.balance < 1:
            return False
        self.balance -= 1
        return True
