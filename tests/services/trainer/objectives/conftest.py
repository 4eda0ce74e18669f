import pytest


@pytest.fixture(autouse=True)
def _small_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pools and evaluations of a handful: what they are made of does not change."""
    folder = "services.trainer.objectives"
    for module, name in (
        ("vae", "NUM_EVAL"),
        ("contrastive", "NUM_EVAL_GROUPS"),
        ("language", "NUM_EVAL"),
        ("diffusion", "NUM_EVAL"),
        ("understanding", "NUM_EVAL"),
        ("multimodal", "NUM_EVAL"),
    ):
        monkeypatch.setattr(f"{folder}.{module}.{name}", 4)
