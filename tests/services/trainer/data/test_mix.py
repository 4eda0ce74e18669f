"""The recipe of a mix: what is wrong in it is said, by key, before work starts; shares become whole numbers."""

import random
from pathlib import Path
from typing import get_args

import pytest

from services.trainer.data.mix import Length, Mix, apportion
from tests.services.trainer.data.published import write_gvit
from triptych.errors import FailedPrecondition, InvalidArgument
from triptych.prompts import TEMPLATES

ROOT = Path(__file__).parents[4]
TOML = """
name = "two"
seed = 3
[shares]
words = 25
pictures = 75
[[sources]]
type = "sharegpt"
name = "chat"
group = "words"
path = "chat.json"
[[sources]]
type = "llava"
name = "llava"
group = "pictures"
path = "llava.json"
images = "images"
limit = 10
"""


def read(tmp_path: Path, old: str = "", new: str = "") -> Mix:
    assert old in TOML
    path = tmp_path / "mix.toml"
    path.write_text(TOML.replace(old, new, 1) if old else TOML)
    return Mix.read(path)


def test_reads(tmp_path: Path) -> None:
    mix = read(tmp_path)
    assert [(c.name, c.type, c.limit) for c in mix.sources] == [("chat", "sharegpt", None), ("llava", "llava", 10)]
    assert Mix.model_validate(mix.model_dump(mode="json")) == mix
    assert mix.source("llava").pictures == Path("images")
    assert mix.under(Path("/data")).source("llava").pictures == Path("/data/images")
    with pytest.raises(InvalidArgument, match="unknown source 'lava', known: chat, llava"):
        mix.source("lava")


WRONG = [
    ("seed = 3", "sede = 3", "sede"),
    ("seed = 3", 'seed = "x"', "seed"),
    ("seed = 3", "size = 0", "size"),
    ('name = "two"', 'name = "Two words"', "name"),
    ("words = 25", "words = 24.5", "shares add up to 99.50, not 100 percent"),
    ("words = 25", "words = -25", "shares must be above 0"),
    ("words = 25", "words = nan", "shares must be above 0"),
    ("words = 25", 'words = "many"', "shares.words"),
    ("words = 25", "talk = 25", r"groups of sources \['pictures', 'words'\] are not those with shares"),
    ('type = "sharegpt"', 'type = "shargpt"', "unknown source type 'shargpt', known: captions, documents"),
    ('type = "sharegpt"', "type = 3", "unknown source type '3'"),
    ('type = "sharegpt"', "", "no type, known:"),
    ('name = "llava"', 'name = "chat"', "sources named twice: chat"),
    ('path = "chat.json"', "", "path"),
    ('path = "chat.json"', 'path = "chat.json"\nimages = "x"', "images"),
    ("limit = 10", "limit = 0", "limit"),
    ('images = "images"', "images = 4", "images"),
    ("seed = 3", "dedup = {picture_distance = 16}", "picture_distance"),
    ("seed = 3", 'length = {tokenizer = "t", template = "llama"}', "template"),
    ("seed = 3", "seed = ", "Invalid"),
]


@pytest.mark.parametrize(("old", "new", "message"), WRONG)
def test_what_is_wrong_is_said(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"(?s)mix\.toml.*{message}"):
        read(tmp_path, old, new)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"none\.toml does not exist"):
        Mix.read(tmp_path / "none.toml")


def test_the_papers_mix() -> None:
    """GVIT: 1.93 % language, 9.63 % editing, 26.88 % generation, 61.56 % understanding."""
    mix = Mix.read(ROOT / "recipes" / "mixes" / "gvit.toml")
    assert mix.shares == {"language": 1.93, "editing": 9.63, "generation": 26.88, "understanding": 61.56}
    thousands = {"sharegpt": 40, "instructpix2pix": 200, "llava-pretrain": 558, "llava-finetune": 665}
    assert thousands.items() <= {c.name: (c.limit or 0) // 1000 for c in mix.sources}.items()
    assert mix.length is not None
    assert mix.length.max_tokens == 2048
    assert mix.length.template == "genllava"
    available = {c.name: c.limit or 1 for c in mix.sources}
    available["lvis-instruct4v"] = 215_000  # what the union with LLaVA-Finetune is said to leave: about 880,000
    quotas = mix.quotas(available)
    assert abs(sum(quotas.values()) - 2_076_000) < 6_000


def test_every_template_has_its_name() -> None:
    assert get_args(Length.model_fields["template"].annotation) == tuple(TEMPLATES)


def test_digest_follows_the_recipe(tmp_path: Path) -> None:
    assert read(tmp_path).digest == read(tmp_path).digest
    assert read(tmp_path, "limit = 10", "limit = 11").digest != read(tmp_path).digest


def test_quotas_keep_shares(tmp_path: Path) -> None:
    mix = write_gvit(tmp_path, 1)
    available = {"sharegpt": 1000, "ip2p": 210, "pretrain": 900, "llava": 600, "docvqa": 200}
    assert mix.quotas(available) == {"sharegpt": 105, "ip2p": 210, "pretrain": 315, "llava": 315, "docvqa": 105}
    sized = mix.model_copy(update={"size": 100})
    assert sized.quotas(available) == {"sharegpt": 10, "ip2p": 20, "pretrain": 30, "llava": 30, "docvqa": 10}
    with pytest.raises(
        FailedPrecondition, match="group editing: 400 samples wanted for 2000 in all, 210 usable; at most"
    ):
        mix.model_copy(update={"size": 2000}).quotas(available)


@pytest.mark.parametrize("seed", range(50))
def test_apportion_adds_up_and_takes_no_more_than_there_is(seed: int) -> None:
    rng = random.Random(seed)
    weights = {f"s{i}": rng.choice([0, 1, rng.randrange(1000)]) for i in range(rng.randrange(1, 7))}
    whole = sum(weights.values())
    total = rng.randrange(whole + 1)
    shares = apportion(total, weights)
    assert sum(shares.values()) == total
    assert all(0 <= shares[name] <= weight for name, weight in weights.items())
    assert all(abs(shares[name] - total * weight / max(1, whole)) < 1 for name, weight in weights.items())


@pytest.mark.parametrize("seed", range(50))
def test_quotas_never_exceed(seed: int) -> None:
    rng = random.Random(seed)
    sources = [{"type": "sharegpt", "name": f"s{i}", "group": f"g{min(i, 3)}", "path": "x.json"} for i in range(5)]
    shares = {"g0": 1.93, "g1": 9.63, "g2": 26.88, "g3": 61.56}
    mix = Mix.model_validate({"name": "x", "shares": shares, "sources": sources})
    available = {f"s{i}": rng.randrange(1, 500) for i in range(5)}
    quotas = mix.quotas(available)
    assert all(quotas[name] <= number for name, number in available.items())
    size = sum(quotas.values())
    for group, share in shares.items():
        got = sum(n for name, n in quotas.items() if group == f"g{min(int(name[1:]), 3)}")
        assert abs(got - size * share / 100) <= 2


def even(*shares: float) -> Mix:
    groups = {f"g{i}": share for i, share in enumerate(shares)}
    sources = [
        {"type": "sharegpt", "name": f"s{i}", "group": group, "path": "x.json"} for i, group in enumerate(groups)
    ]
    return Mix.model_validate({"name": "x", "shares": groups, "sources": sources})


def test_shares_that_add_up_but_for_rounding() -> None:
    assert even(33.33, 33.33, 33.33).quotas(dict.fromkeys(["s0", "s1", "s2"], 400_000)) == {
        "s0": 400_000,
        "s1": 400_000,
        "s2": 400_000,
    }


def test_the_largest_mix_is_no_sample_short() -> None:
    """2889 are 9.63 % of 30,000; in floating point, of a little less."""
    assert even(9.63, 90.37).quotas({"s0": 2889, "s1": 99_999}) == {"s0": 2889, "s1": 27_111}
