"""The gate of a stage: figures that must be reached before anything may build on its work."""

from triptych.errors import FailedPrecondition, InvalidArgument


def check_gate(name: str, gate: dict[str, float], evaluation: dict[str, float]) -> None:
    """Raises FailedPrecondition naming what was missed, InvalidArgument for a figure that does not exist."""
    if unknown := sorted(set(gate) - set(evaluation)):
        raise InvalidArgument(f"{name}'s gate names {', '.join(unknown)}, known are {', '.join(evaluation)}")
    missed = {key: (evaluation[key], least) for key, least in gate.items() if evaluation[key] < least}
    if missed:
        listed = ", ".join(f"{key} {got:.4f} < {least}" for key, (got, least) in missed.items())
        raise FailedPrecondition(f"{name} missed its gate: {listed}")
