"""Tiny data sets on disk, exactly in the forms they are published in."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from services.trainer.data.mix import Mix

TOKENIZER = Path(__file__).parents[4] / "checkpoints" / "genllava-tiny" / "llm"
WORDS = [
    *("river", "stone", "lamp", "window", "garden", "engine", "paper", "silver"),
    *("morning", "harbour", "violet", "copper", "winter", "ladder", "meadow"),
]


def draw(seed: int, size: tuple[int, int] = (96, 72)) -> Image.Image:
    """A smooth background and a few discs: as unlike from seed to seed as photographs are."""
    noise = np.random.default_rng(seed).normal(size=(6, 6, 3)) * 50 + 128
    image = Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    pen, rng = ImageDraw.Draw(image), random.Random(seed)
    for _ in range(5):
        x, y, r = rng.randrange(size[0]), rng.randrange(size[1]), rng.randrange(4, size[0] // 4)
        pen.ellipse((x - r, y - r, x + r, y + r), fill=(rng.randrange(256), rng.randrange(256), rng.randrange(256)))
    return image


def save(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(seed).save(path)
    return path


def say(rng: random.Random, num_words: int = 12) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(num_words))


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def turn(speaker: str, value: str) -> dict[str, str]:
    return {"from": speaker, "value": value}


def write_llava(root: Path, num: int, seed: int = 0) -> dict[str, Any]:
    """`llava_v1_5_mix665k.json`: two turns about a picture; every fourth without one."""
    entries = []
    for index in range(num):
        rng = random.Random(f"llava/{seed}/{index}")
        first = f"{say(rng, 6)}?"
        entry: dict[str, Any] = {"id": f"{index:012d}"}
        if index % 4 != 3:
            save(root / "llava/images/coco/train2017" / f"{index:012d}.jpg", 1000 * seed + index)
            entry["image"] = f"coco/train2017/{index:012d}.jpg"
            first = f"<image>\n{first}"
        said = [turn("human", first), turn("gpt", say(rng)), turn("human", say(rng, 5)), turn("gpt", say(rng))]
        entries.append({**entry, "conversations": said})
    path = write(root / "llava/llava_v1_5_mix665k.json", entries)
    return {"type": "llava", "path": str(path), "images": str(root / "llava/images")}


def write_captions(root: Path, num: int) -> dict[str, Any]:
    """`blip_laion_cc_sbu_558k.json` of LLaVA-Pretrain."""
    entries = []
    for index in range(num):
        name = f"{index // 10:05d}/{index:09d}.jpg"
        save(root / "pretrain" / name, 20_000 + index)
        caption = say(random.Random(f"caption/{index}"), 8)
        said = [turn("human", "Give a brief description of the image.\n<image>"), turn("gpt", caption)]
        entries.append({"id": f"{index:09d}", "image": name, "conversations": said})
    path = write(root / "pretrain/blip_laion_cc_sbu_558k.json", entries)
    return {"type": "captions", "path": str(path), "images": str(root / "pretrain")}


def write_instructpix2pix(root: Path, num: int, seeds_json: bool = True) -> dict[str, Any]:
    """`clip-filtered-dataset`: shard folders of prompt folders, two pairs each."""
    folder, listed = root / "ip2p", []
    for index in range(num):
        rng = random.Random(f"ip2p/{index}")
        name = f"shard-00/{index:07d}"
        seeds = [str(1_000_000 + 7 * index), str(2_000_000 + 7 * index)]
        prompt = {"input": say(rng, 6), "edit": f"make it {say(rng, 3)}", "output": say(rng, 6)}
        write(folder / name / "prompt.json", prompt)
        for pair, seed in enumerate(seeds):
            save(folder / name / f"{seed}_0.jpg", 40_000 + 10 * index + 2 * pair)
            save(folder / name / f"{seed}_1.jpg", 40_001 + 10 * index + 2 * pair)
        lines = [json.dumps({"seed": int(s), "clip_sim_0": 0.8, "clip_sim_1": 0.8, "clip_sim_dir": 0.3}) for s in seeds]
        (folder / name / "metadata.jsonl").write_text("\n".join(lines) + "\n")
        listed.append([name, seeds])
    if seeds_json:
        write(folder / "seeds.json", listed)
    return {"type": "instructpix2pix", "path": str(folder)}


def write_sharegpt(root: Path, num: int, num_words: int = 30) -> dict[str, Any]:
    """`ShareGPT_V3_unfiltered_cleaned_split.json`."""
    entries = []
    for index in range(num):
        rng = random.Random(f"sharegpt/{index}")
        said = [turn(speaker, say(rng, num_words)) for speaker in ("human", "gpt", "human", "gpt")]
        entries.append({"id": f"Qk{index}_0", "conversations": said})
    path = write(root / "sharegpt/ShareGPT_V3_unfiltered_cleaned_split.json", entries)
    return {"type": "sharegpt", "path": str(path)}


def write_docvqa(root: Path, num: int) -> dict[str, Any]:
    """`train_v1.0.json`, two questions a page."""
    data = []
    for index in range(num):
        page = f"documents/pg{index // 2:04d}_1.png"
        save(root / "docvqa" / page, 60_000 + index // 2)
        rng = random.Random(f"docvqa/{index}")
        question = {"questionId": 300 + index, "question": f"What is the {say(rng, 5)}?", "question_types": ["form"]}
        where = {"image": page, "docId": index // 2, "ucsf_document_id": "pg", "ucsf_document_page_no": "1"}
        data.append({**question, **where, "answers": [say(rng, 2), say(rng, 2)], "data_split": "train"})
    head = {"dataset_name": "docvqa", "dataset_version": "1.0", "dataset_split": "train"}
    path = write(root / "docvqa/train_v1.0.json", {**head, "data": data})
    return {"type": "documents", "format": "docvqa", "path": str(path), "images": str(root / "docvqa")}


def write_gvit(root: Path, num: int = 8, **values: Any) -> Mix:
    """A small mix of all kinds; `values` are keys of the mix."""
    made = {
        "sharegpt": ("language", write_sharegpt(root, num)),
        "ip2p": ("editing", write_instructpix2pix(root, num)),
        "pretrain": ("generation", write_captions(root, 2 * num)),
        "llava": ("understanding", write_llava(root, 2 * num)),
        "docvqa": ("understanding", write_docvqa(root, num)),
    }
    sources = [{"name": name, "group": group, **source} for name, (group, source) in made.items()]
    shares = {"language": 10.0, "editing": 20.0, "generation": 30.0, "understanding": 40.0}
    length = {"tokenizer": str(TOKENIZER), "num_image_tokens": 36, "max_tokens": 400}
    work = {"samples_per_shard": 7, "records_per_piece": 5}
    return Mix.model_validate(
        {"name": "tiny", "shares": shares, "sources": sources, "length": length, **work, **values}
    )
