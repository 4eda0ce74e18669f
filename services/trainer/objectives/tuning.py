"""GenLLaVA's training of an assembled model on a prepared mix; encoder, UNet and VAE stay frozen."""

import random
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from services.trainer.assembly import HEAD, LLM, PROJECTOR, Assembly
from services.trainer.config import Stage
from services.trainer.data.batches import GroupedBatches
from services.trainer.data.catalogue import Catalogue
from services.trainer.data.collate import Collator, TuningBatch
from services.trainer.data.tokens import IMAGE, RowMaker
from services.trainer.gate import check_names
from services.trainer.objectives.base import Objective
from services.trainer.objectives.denoising import Denoiser
from services.trainer.objectives.tuned import TokenRows, Told, TunedModule, plain_llm
from services.trainer.objectives.understanding import use_eager_attention
from services.trainer.ranks import ALONE, Ranks
from services.trainer.tuning import DRAWING, Lora, TuningRecipe, TuningStage
from triptych.errors import InvalidArgument
from triptych.models.encoder_stage import EncoderStage
from triptych.models.llm_stage import LlmStage
from triptych.models.llms.causal import CausalLlm
from triptych.prompts import TASK_TOKENS

NUM_RECOUNTED = 16  # of the longest samples, before anything is trained
EVALUATED_AT_ONCE = 8  # samples of a rank, where the recipe does not say


class Losses(NamedTuple):
    """Of some samples, added up over labels and over target pictures."""

    understanding: Tensor
    generation: Tensor
    num_right: Tensor


class TuningObjective(Objective):
    """L = L_und + generation_weight * L_gen on a share of each batch (`TuningStage`)."""

    is_distributed: ClassVar[bool] = True
    recipe: TuningRecipe  # type: ignore[assignment]

    def __init__(self, recipe: TuningRecipe, stage: str, inputs: dict[str, Path], ranks: Ranks = ALONE) -> None:
        """`inputs` maps `mix`, where the recipe prepares it, and each stage before this one to what it made.

        Raises InvalidArgument when data, model and stage do not fit together.
        """
        self.recipe, self.inputs, self.ranks = recipe, inputs, ranks
        self.name, self.stage = stage, recipe.stage(stage)
        torch.manual_seed(recipe.seed)
        before = tuple(folder for name, folder in inputs.items() if name != "mix")
        self.assembly = Assembly(recipe.base, before)
        self.encoder_stage, self.llm_stage = self.assembly.encoder(), self.assembly.llm()
        decoder_stage = self.assembly.decoder() if self.stage.learns_to_draw else None
        if self.stage.draws and not self.assembly.has_decoder:
            raise InvalidArgument(f"{stage}: tasks {list(self.stage.tasks)}, but {recipe.base} has no decoder")
        self._tuned = self._build(self.encoder_stage, self.llm_stage, decoder_stage.head if decoder_stage else None)
        self.encoder = self.encoder_stage.encoder.to(ranks.device, self._frozen_dtype)
        checkpointing = recipe.spread.activation_checkpointing
        self.denoiser = (
            Denoiser(decoder_stage, ranks.device, self._frozen_dtype, checkpointing) if decoder_stage else None
        )
        self._load(decoder_stage.decoder.image_size if decoder_stage else 0)

    @property
    def _frozen_dtype(self) -> torch.dtype:
        """Of what is not trained: half the memory where there is hardware for it."""
        halved = self.recipe.spread.precision == "bf16" and self.ranks.device.type == "cuda"
        return torch.bfloat16 if halved else torch.float32

    def _build(self, encoder: EncoderStage, llm: LlmStage, head: Any) -> TunedModule:
        train, model = self.stage.train, llm.llm
        assert isinstance(model, CausalLlm)  # all that there are
        if self.ranks.device.type == "cpu":
            use_eager_attention(model)
        model.requires_grad_("llm" in train and not self.stage.lora)
        adapted = self.stage.lora or "tokens" in train
        rows = TokenRows(own_tokens(llm), model) if adapted else None
        if self.stage.lora:
            add_lora(model.causal_lm, self.stage.lora)
        encoder.projector.requires_grad_("projector" in train)
        if head is not None:
            head.requires_grad_("head" in train)
        return TunedModule(encoder.projector, model, head, rows, llm.codec.special_id(IMAGE), llm.img_ids)

    def _load(self, target_size: int) -> None:
        codec, stage = self.llm_stage.codec, self.stage
        self.collator = Collator(
            RowMaker(codec, self.encoder.num_patches),
            self.llm_stage.template,
            codec.tokenizer.pad_token_id,
            self.encoder_stage.processor,
            target_size,
            int(self.llm_stage.llm.max_model_len),
        )
        data = stage.data or self.recipe.data or self.inputs["mix"]
        self.catalogue = Catalogue(data)
        never = self.catalogue.held_out(self.recipe.held_out, self.recipe.seed)
        chosen = self.catalogue.chosen(stage.tasks, stage.groups)
        self.trained_on = [number for number in chosen if number not in never]
        held_out = [number for number in chosen if number in never]
        self.held_out = held_out[: len(held_out) - len(held_out) % self.ranks.world_size]
        check_names(f"{self.name}: gate, on {len(self.held_out)} samples held out,", stage.gate, self._figures())
        check_data(self.name, stage, self.catalogue, self.collator, self.trained_on)
        kinds = [self.catalogue.kinds[number] for number in self.trained_on]
        lengths = self.catalogue.tokens[self.trained_on].tolist()
        self.batches = GroupedBatches(kinds, lengths, stage.batch_size, f"{self.recipe.seed}/{self.name}")
        if stage.batch_size % self.ranks.world_size:
            raise InvalidArgument(
                f"{self.name}: batch_size {stage.batch_size} is no multiple of {self.ranks.world_size} processes"
            )
        self._config = stage.schedule(len(self.batches), self.recipe.spread)
        self._thread = ThreadPoolExecutor(1, "samples")  # one: tokenizers are not for several at once
        self._ahead: dict[int, Future[list[TuningBatch]]] = {}

    @property
    def config(self) -> Stage:
        return self._config

    @property
    def module(self) -> nn.Module:
        return self._tuned

    def blocks(self) -> list[nn.Module]:
        return list(self._tuned.llm.causal_lm.model.layers)

    def parameter_groups(self) -> list[dict[str, object]]:
        """By part, and within it what decays and what does not: norms, biases, head queries and token rows."""
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for key, parameter in self._tuned.named_parameters():
            if parameter.requires_grad:
                part = key.split(".")[0]
                name: Any = ("llm" if self.stage.lora else "tokens") if part == "rows" else part
                decays = parameter.ndim == 2 and part != "rows"
                groups.setdefault((self.stage.lr_scales.get(name, 1.0), decays), []).append(parameter)
        return [
            {"params": parameters, "lr_scale": scale, **({} if decays else {"weight_decay": 0.0})}
            for (scale, decays), parameters in groups.items()
        ]

    def backward(self, step: int) -> dict[str, Tensor]:
        """Figures, like gradients, are this rank's share. `drawing` is 1 in steps with pictures to draw: what
        `generation` has to be divided by, in a mean over many steps."""
        parts = self._parts(step)
        torch.manual_seed(random.Random(f"{self._seed}/{step}/{self.ranks.rank}").getrandbits(63))  # LoRA's dropout
        num_labels, num_targets = self._counts(parts)
        shares: list[tuple[Tensor, Tensor]] = []
        for part in self.micro_batches(parts):
            losses = self._losses(part, f"{self._seed}/{step}", self.stage.condition_dropout)
            understanding, generation = losses.understanding / num_labels, losses.generation / num_targets.clamp(min=1)
            (understanding + self.stage.generation_weight * generation).backward()
            shares.append((understanding.detach(), generation.detach()))
        understanding, generation = (torch.stack(values).sum() for values in zip(*shares, strict=True))
        figures = {"loss": understanding + self.stage.generation_weight * generation, "understanding": understanding}
        if self.denoiser:
            figures["generation"] = generation
            figures["drawing"] = (num_targets > 0).float() / self.ranks.world_size
        return figures

    @property
    def _seed(self) -> str:
        return f"{self.recipe.seed}/{self.name}"

    def _losses(self, batch: TuningBatch, seed: str, dropout: float) -> Losses:
        told = self._tell(batch)
        generation = told.conditioning.float().sum() * 0
        if self.denoiser and batch.num_targets:
            generation = self.denoiser.losses(batch, told.conditioning, seed, dropout)
        return Losses(told.loss.float(), generation, told.num_right)

    def _tell(self, batch: TuningBatch) -> Told:
        features = torch.zeros(0, self.encoder.num_patches, self.encoder.embed_dim, device=batch.ids.device)
        if len(batch.pixel_values):
            with torch.no_grad():
                features = self.encoder(batch.pixel_values.to(self._frozen_dtype)).float()
        told: Told = self._tuned(batch.ids, batch.labels, features)
        return told

    def _counts(self, parts: list[TuningBatch]) -> tuple[Tensor, Tensor]:
        """Labels and target pictures of the whole batch, on all ranks."""
        own = [sum(part.num_labels for part in parts), sum(part.num_targets for part in parts)]
        num_labels, num_targets = self.ranks.sum(torch.tensor(own, dtype=torch.float32, device=self.ranks.device))
        return num_labels, num_targets

    def _parts(self, step: int) -> list[TuningBatch]:
        """This rank's rows of the step's batch, in passes; the next step's are read in the meantime."""
        future = self._ahead.pop(step, None) or self._thread.submit(self._collated, self._rows(step))
        self._ahead = {step + 1: self._thread.submit(self._collated, self._rows(step + 1))}
        return [part.to(self.ranks.device) for part in future.result()]

    def _rows(self, step: int) -> list[tuple[int, int]]:
        """Rows of the whole batch, and the samples that they are."""
        return [(row, self.trained_on[number]) for row, number in enumerate(self.batches.at(step))]

    def _collated(self, rows: list[tuple[int, int]], at_once: int = 0) -> list[TuningBatch]:
        """This rank's share of `rows`, so many in a pass."""
        own = rows[self.ranks.rank :: self.ranks.world_size]
        size = at_once or self.recipe.spread.micro_batch_size or len(own)
        samples = ((row, self.catalogue.read(number)) for row, number in own)
        return [self.collator(list(part)) for part in _chunks(list(samples), size)]

    def _figures(self) -> list[str]:
        """What the samples held out can tell."""
        is_drawn = any(self.catalogue.tasks[number] in DRAWING for number in self.held_out)
        return [name for name in self.stage.figures if self.held_out and (is_drawn or name != "generation")]

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """On samples held out: mean loss of a label, share of labels that were the likeliest token, mean denoising loss
        of a picture."""
        if not self.held_out:
            return {}
        at_once = self.recipe.spread.micro_batch_size or EVALUATED_AT_ONCE
        sums = torch.zeros(5, device=self.ranks.device)
        for part in self._thread.submit(self._collated, list(enumerate(self.held_out)), at_once).result():
            batch = part.to(self.ranks.device)
            losses = self._losses(batch, f"{self.recipe.seed}/held out", dropout=0.0)
            counts = torch.tensor([batch.num_labels, batch.num_targets], dtype=torch.float32, device=sums.device)
            sums += torch.cat([torch.stack(losses).to(sums), counts])
        understanding, generation, num_right, num_labels, num_targets = self.ranks.sum(sums).tolist()
        figures = {"understanding": understanding / num_labels, "tokens_right": num_right / num_labels}
        return {**figures, "generation": generation / num_targets} if num_targets else figures

    def write(self, folder: Path) -> None:
        """`projector/ llm/ head/`, those that were trained, as `Assembly` reads them; adapters are merged."""
        tuned, train = self._tuned, set(self.stage.train)
        if "projector" in train:
            tuned.projector.save(folder / PROJECTOR)
        if train & {"llm", "tokens"}:
            llm = plain_llm(tuned.llm, tuned.rows)
            LlmStage(llm, self.llm_stage.codec, self.llm_stage.template).save(folder / LLM)
        if "head" in train and tuned.head is not None:
            tuned.head.save(folder / HEAD)


def own_tokens(llm: LlmStage) -> list[int]:
    """Ids of the tokens that an assembled model has on top of its published vocabulary, and that are embedded."""
    names = [*sorted(set(TASK_TOKENS.values())), *llm.template.image_tokens]
    return [llm.codec.special_id(name) for name in names]


def add_lora(causal_lm: Any, config: Lora) -> None:
    """Puts adapters into the model's linears, in place. Raises InvalidArgument for targets that it has not."""
    from peft import LoraConfig, get_peft_model

    known = {name.rsplit(".", 1)[-1] for name, part in causal_lm.model.named_modules() if isinstance(part, nn.Linear)}
    if unknown := sorted(set(config.targets) - known):
        raise InvalidArgument(f"lora.targets {unknown}: the LLM's linear layers are {sorted(known)}")
    settings = LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=list(config.targets)
    )
    get_peft_model(causal_lm, settings)


def check_data(name: str, stage: TuningStage, catalogue: Catalogue, collator: Collator, chosen: list[int]) -> None:
    """Raises InvalidArgument when there is too little, nothing to draw for a head, or a sample is too long.

    The mix was cut by a count of its own: the longest samples are counted again, as this model reads them.
    """
    if len(chosen) < stage.batch_size:
        raise InvalidArgument(
            f"{name}: batch_size is {stage.batch_size}, but {len(chosen)} samples are to be trained on"
        )
    if "head" in stage.train and not any(catalogue.tasks[number] in ("generate", "edit") for number in chosen):
        raise InvalidArgument(f"{name}: train has the head, but the data have no pictures to draw")
    longest = sorted(chosen, key=lambda number: -catalogue.tokens[number])[:NUM_RECOUNTED]
    for sample in (catalogue.read(number) for number in longest):
        if (found := collator.num_tokens(sample.record)) > collator.max_tokens:
            raise InvalidArgument(
                f"{name}: sample {sample.record.id} of {sample.source} has {found} tokens ({sample.tokens} when it was "
                f"prepared), the LLM takes {collator.max_tokens}: prepare the mix with the checkpoint's own tokenizer, "
                "num_image_tokens and template"
            )


def _chunks(values: list[Any], size: int) -> list[list[Any]]:
    return [values[start : start + size] for start in range(0, len(values), size)]
