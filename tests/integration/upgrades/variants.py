"""New versions of the shipped checkpoint's components, good ones and bad ones, as a trainer would publish them."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from triptych.card import Port, read_card, write_card
from triptych.models.cards import CardWriter, Defaults, Spaces
from triptych.models.decoder_stage import DecoderStage
from triptych.models.encoder_stage import EncoderStage
from triptych.models.export import ExportConfig, export_component
from triptych.models.llm_stage import LlmStage
from triptych.models.probes import PROBES_FILE
from triptych.prompts import PromptTemplate


class Variants:
    """Of the checkpoint in `base`, each in a folder of its own below `root`."""

    def __init__(self, base: Path, root: Path) -> None:
        self._base = base
        self._root = root
        cards = {stage: read_card(base / stage) for stage in ("encoder", "llm", "decoder")}
        self.spaces = Spaces(cards["llm"].input("embeddings").space, cards["llm"].output("hidden_states").space)
        self._facts = cards["decoder"].facts
        self._template = PromptTemplate.from_dict(cards["llm"].facts["template"])

    def export_encoder(self, checkpoint: Path | None = None) -> None:
        """Into the folder itself, by default the one that runs: its digest stays."""
        export_component((checkpoint or self._base) / "encoder", ExportConfig(format="onnx"))

    def retrained_decoder(self) -> Path:
        """Other weights, learned against the same LLM: the space stays."""
        folder = self._folder("retrained", "decoder")
        stage = DecoderStage.load(self._base / "decoder")
        _nudge(stage.decoder, 0.02)
        stage.save(folder, torch.float32)
        self._writer("1.1.0", self.spaces).decoder(folder, DecoderStage.load(folder), self._llm())
        return folder

    def retrained_pair(self) -> Path:
        """Encoder and LLM trained together: a new space between them, the decoder's stays."""
        writer = self._writer("2.0.0", Spaces("pair/llm-input@2", self.spaces.img))
        encoder = self._folder("pair", "encoder")
        seeing = EncoderStage.load(self._base / "encoder")
        _nudge(seeing.projector, 0.001)
        seeing.save(encoder, torch.float32)
        writer.encoder(encoder, EncoderStage.load(encoder))
        llm = self._folder("pair", "llm")
        speaking = self._llm()
        _nudge(speaking.llm, 0.001)
        speaking.save(llm, torch.float32)
        writer.llm(llm, LlmStage.load(llm, self._template))
        return encoder.parent

    def with_wrong_probes(self) -> Path:
        """Whole, by its digest; but it does not compute what it did when it was published."""
        folder = self._copy("probes", "decoder")
        probes = load_file(folder / PROBES_FILE)
        spoilt = {name: -values if name.endswith("/out") else values for name, values in probes.items()}
        save_file({name: np.ascontiguousarray(values) for name, values in spoilt.items()}, folder / PROBES_FILE)
        write_card(folder, replace(read_card(folder), version="1.0.1"))
        return folder

    def of_another_space(self) -> Path:
        """As good as any, for another LLM."""
        folder = self._copy("space", "decoder")
        card = read_card(folder)
        write_card(folder, replace(card, version="3.0.0", inputs=tuple(_moved(port) for port in card.inputs)))
        return folder

    def _llm(self) -> LlmStage:
        return LlmStage.load(self._base / "llm", self._template)

    def _writer(self, version: str, spaces: Spaces) -> CardWriter:
        steps, guidance = self._facts["default_num_inference_steps"], self._facts["default_guidance_scale"]
        defaults = Defaults(num_inference_steps=steps, guidance_scale=guidance)
        return CardWriter("genllava-tiny", version, spaces, {"recipe": "retrained"}, defaults)

    def _folder(self, name: str, stage: str) -> Path:
        folder = self._root / name / stage
        folder.mkdir(parents=True)
        return folder

    def _copy(self, name: str, stage: str) -> Path:
        return Path(shutil.copytree(self._base / stage, self._root / name / stage))


def _nudge(module: Any, scale: float) -> None:
    """By `scale` of what its weights are like anyway."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            spread = parameter.std() if parameter.numel() > 1 else 0.0
            parameter.add_(scale * spread * torch.randn(parameter.shape, generator=generator))


def _moved(port: Port) -> Port:
    return replace(port, space="elsewhere/img@1") if port.space else port
