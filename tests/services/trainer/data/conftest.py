"""A finished mix, made once, step by step, in this process."""

from pathlib import Path

import pytest

from services.trainer.data.folder import MixFolder
from services.trainer.data.phases import phases
from tests.services.trainer.data.published import save, turn, write, write_gvit

# Appended to LLaVA's entries: a record like one of the first file's, one without its picture, one with a broken one.
DAMAGE = 3


def make_mix(out: Path) -> MixFolder:
    """Every step, one after the other."""
    folder = MixFolder(out)
    for phase in phases(folder):
        for arguments in phase.open():
            phase.step(*arguments)
        assert phase.open() == []
    return folder


def damage(root: Path) -> None:
    """Adds a near-duplicate, a missing picture and an unreadable one to the LLaVA entries of `write_gvit`."""
    from services.trainer.data.sources.base import json_value

    path = root / "llava/llava_v1_5_mix665k.json"
    entries = json_value(path)
    again = [{**t, "value": t["value"].upper().replace("<IMAGE>", "<image>")} for t in entries[0]["conversations"]]
    said = [turn("human", "<image>\nwhat?"), turn("gpt", "nothing")]
    (root / "llava/images/broken.jpg").write_bytes(b"GIF89a nonsense")
    save(root / "llava/images/again.png", 0)  # LLaVA's first picture, in another format
    added = [
        {"id": "again", "image": "again.png", "conversations": again},
        {"id": "gone", "image": "gone.jpg", "conversations": said},
        {"id": "broken", "image": "broken.jpg", "conversations": said},
    ]
    write(path, [*entries, *added])


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> MixFolder:
    """Not to be changed."""
    root = tmp_path_factory.mktemp("mix")
    mix = write_gvit(root)
    damage(root)
    MixFolder.begin(mix, root / "out", root)
    return make_mix(root / "out")
