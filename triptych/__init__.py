"""Triptych: serving and training of unified multimodal models. Importing this package does no work."""

__version__ = "0.1.0"
