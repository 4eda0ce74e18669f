"""GenLLaVA's beginning: SigLIP, Mistral and Stable Diffusion as published, what joins them fresh, ready to be trained.

Sizes and defaults are the paper's (sections 3.2 and 4.2), the token rows LLaVA's: around the mean of the others.
"""

from pathlib import Path

import torch

from triptych.card import Card, folder_digest
from triptych.models.cards import CardWriter, Defaults, Spaces
from triptych.models.heads.query_transformer import QueryTransformer
from triptych.models.projectors.mlp import MlpProjector
from triptych.models.published.diffusion import PublishedDiffusion
from triptych.models.published.draft import check_free, check_sources, draft
from triptych.models.published.llm import PublishedLlm
from triptych.models.published.vision import PublishedVision
from triptych.prompts import TEMPLATES

NAME = "genllava"


def import_genllava(vision: Path, llm: Path, diffusion: Path, out: Path, seed: int = 0) -> dict[str, Card]:
    """Writes the checkpoint `out`; returns its cards by kind. The same folders and seed give the same checkpoint.

    Published weights keep their precision. Until it is trained, it answers in words about words only.
    Raises CheckpointError naming the file or the keys that are wrong, InvalidArgument when `out` exists.
    """
    check_free(out)
    check_sources(vision=vision, llm=llm, diffusion=diffusion)
    seen, spoken = PublishedVision.open(vision), PublishedLlm.open(llm, TEMPLATES[NAME], seed)
    drawn = PublishedDiffusion.open(diffusion)
    hidden_size = spoken.llm.hidden_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        projector = MlpProjector(MlpProjector.Config(input_size=seen.tower.embed_dim, hidden_size=hidden_size))
        num_queries, width = drawn.null_conditioning.shape[1:]
        head = QueryTransformer(
            QueryTransformer.Config(input_size=hidden_size, num_queries=num_queries, output_size=width)
        )
    with draft(out) as folder:
        encoder_stage = seen.write(folder / "encoder", projector, torch.float32)
        llm_stage = spoken.write(folder / "llm")
        decoder_stage = drawn.write(folder / "decoder", head)
        spaces = Spaces.of_run(NAME, folder_digest(folder))
        made_by = {"recipe": f"triptych import {NAME}", "seed": seed}
        # Stable Diffusion's own defaults: guidance was trained there, and nothing else is known yet.
        defaults = Defaults(num_inference_steps=50, guidance_scale=7.5)
        writer = CardWriter(NAME, "0.1.0", spaces, made_by, defaults)
        cards = (
            writer.encoder(folder / "encoder", encoder_stage),
            writer.llm(folder / "llm", llm_stage),
            writer.decoder(folder / "decoder", decoder_stage, llm_stage),
        )
        writer.system(folder, cards)
    return {card.kind: card for card in cards}
