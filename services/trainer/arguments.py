"""Command-line arguments that more than one of the trainer's commands takes."""

import argparse


def at_least_one(text: str) -> int:
    """A type for argparse: there are no fewer than one process, thread or step."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value
