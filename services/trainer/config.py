"""A training recipe: one TOML file, read once, checked once, frozen. Unknown keys and impossible values fail."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from services.trainer.destination import check_out
from services.trainer.distribution import Distribution
from services.trainer.evaluators import BLOCKS, REPORTED
from services.trainer.gate import FIGURES, check_names
from services.trainer.toml_file import checked, read_toml
from triptych.errors import InvalidArgument
from triptych.exports import FORMATS, PRECISIONS, export_name

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"  # of a recipe: the folder of its run is called so
DRAWING = ("draw", "draw_crowd", "edit", "edit_crowd")  # kinds with one picture to draw in every conversation
NOT_WEIGHTS = {"gate", "evaluate_every", "save_every", "distribution"}


Count = Annotated[int, Field(ge=1)]
Channels8 = Annotated[int, Field(ge=8, multiple_of=8)]
Channels16 = Annotated[int, Field(ge=16, multiple_of=16)]  # normalised in groups of as many


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TokenizerStage(_Frozen):
    """Byte-level BPE over the world's language."""

    vocab_size: int = Field(768, ge=300)
    num_conversations: int = Field(20_000, ge=100)


class Stage(_Frozen):
    """What every gradient-trained stage has."""

    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    warmup_steps: int = Field(100, ge=0)
    lr_floor: float = Field(0.0, ge=0, le=1, description="last learning rate as a share of the first")
    weight_decay: float = Field(0.01, ge=0)
    beta2: float = Field(0.99, gt=0, lt=1)
    max_grad_norm: float = Field(1.0, gt=0)
    ema_decay: float = Field(0.0, ge=0, lt=1, description="0: no moving average of the weights")
    evaluate_every: int = Field(500, ge=1)
    save_every: int = Field(250, ge=1)
    gate: dict[str, float] = Field(default_factory=dict, description="metric name -> least value to go on")
    distribution: Distribution | None = Field(None, description="None: one process, on the CPU")


class VaeStage(Stage):
    """AutoencoderKL on pictures."""

    block_out_channels: tuple[Channels8, ...] = Field((16, 32, 64, 64), min_length=1, max_length=7)
    latent_channels: Count = 8
    foreground_weight: float = Field(5.0, ge=1)
    filled_cells: float = Field(0.7, ge=0, le=1, description="share of cells with a block in training pictures")
    kl_weight: float = Field(1e-6, ge=0)


class VaeDecoderStage(Stage):
    """More training for the VAE's decoder, its encoder frozen."""

    foreground_weight: float = Field(5.0, ge=1)
    edge_weight: float = Field(1.0, ge=0, description="of differences between neighbouring pixels: shapes")
    filled_cells: float = Field(0.3, ge=0, le=1, description="share of cells with a block in training pictures")
    small_share: float = Field(0.75, ge=0, le=1, description="of blocks: small ones are where shapes get lost")


class UnetStage(Stage):
    """UNet and a text encoder of its own, trained together on captions, as latent diffusion models were."""

    block_out_channels: tuple[Channels16, ...] = Field((64, 128), min_length=1)
    layers_per_block: Count = 1
    num_heads: Count = 4
    conditioning_length: int = Field(36, ge=2)
    conditioning_size: int = Field(128, ge=4, multiple_of=4)
    text_layers: Count = 3
    condition_dropout: float = Field(0.1, ge=0, lt=1)
    pool_size: int = Field(24_576, ge=1, description="training pictures, encoded once")
    crowded_share: float = Field(0.5, ge=0, le=1, description="training pictures with more blocks than a scene has")
    filled_cells: float = Field(0.9, ge=0, le=1, description="up to this share of a crowded picture's cells is full")
    timestep_power: float = Field(1.0, gt=0, description="below 1: more of the noise levels where captions matter")


class EncoderStage(Stage):
    """A SigLIP pair trained with the sigmoid loss; every batch holds groups of scenes one edit apart."""

    image_size: Count = 96
    patch_size: Count = 16
    hidden_size: int = Field(160, ge=4, multiple_of=4)
    intermediate_size: Count = 480
    num_layers: Count = 6
    num_heads: Count = 5
    text_hidden_size: int = Field(128, ge=4, multiple_of=4)
    text_layers: Count = 2
    group_size: int = Field(4, ge=1)
    max_caption_tokens: Count = 48
    num_crowds: int = Field(0, ge=0, description="crowded pictures captioned in every batch; 0: no captioning")
    filled_cells: float = Field(0.6, ge=0, le=1)
    captioning_weight: float = Field(8.0, ge=0)


class LlmStage(Stage):
    """A Mistral-type language model on the world's conversations, pictures told in words."""

    hidden_size: Count = 192
    intermediate_size: Count = 576
    num_layers: Count = 6
    num_heads: Count = 6
    num_key_value_heads: Count = 3
    max_model_len: Count = 1024
    max_tokens: int = Field(256, ge=32, description="row length of a batch, filled with whole conversations")


class Group(_Frozen):
    """One kind of conversation in every multimodal step: rows of one length."""

    kind: Literal["ask", "draw", "edit", "mixed", "quiz", "pairs", "survey", "draw_crowd", "edit_crowd"]
    batch_size: int = Field(ge=1)
    max_tokens: int = Field(ge=32)
    num_turns: int = Field(1, ge=1)


class UnderstandingStage(Stage):
    """The LLM learns to see: projector, LLM and, if wanted, encoder on questions and descriptions."""

    batch_size: int = 1  # rows are counted by group
    groups: tuple[Group, ...] = Field(min_length=1)
    auto_task_share: float = Field(0.5, ge=0, le=1, description="share of conversations without task tokens")
    muon_lr_scale: float = Field(0.0, ge=0, description="matrices inside the parts by Muon, at this scale; 0: AdamW")
    train_encoder: bool = False
    encoder_lr_scale: float = Field(1.0, gt=0)


class MultimodalStage(UnderstandingStage):
    """GenLLaVA's single stage: L = L_und + generation_weight * L_gen, the UNet and VAE frozen."""

    generation_weight: float = Field(0.5, ge=0)
    noise_draws: int = Field(2, ge=1, description="timesteps drawn per target picture and step")
    head_hidden_size: Count = 128
    head_intermediate_size: Count = 512
    head_heads: Count = 4
    head_layers: Count = 4
    head_lr_scale: float = Field(1.0, gt=0, description="the head starts from nothing")
    align_weight: float = Field(0.0, ge=0, description="GILL's regression onto text conditioning, fading out")
    align_steps: int = Field(0, ge=0)


class HandoverStage(Stage):
    """The UNet on the conditioning of the frozen LLM and head, of as many conversations as the single stage's groups
    have, kind by kind."""

    condition_dropout: float = Field(0.1, ge=0, lt=1)
    pool_size: int = Field(12_288, ge=1, description="training pictures, conditioned and encoded once")
    timestep_power: float = Field(1.0, gt=0, description="below 1: more of the noise levels where conditioning matters")


class Template(_Frozen):
    """Overrides of `triptych.prompts.PromptTemplate`."""

    system: str = ""
    num_img_tokens: Count = 16
    task_token_position: Literal["sequence_start", "user_turn"] = "user_turn"
    image_position: Literal["after_bos", "turn_start", "inline"] = "turn_start"


class CheckpointStage(_Frozen):
    """What the checkpoint says of itself, and the defaults its services use."""

    version: str
    num_inference_steps: int = Field(25, ge=1, le=200)
    guidance_scale: float = Field(3.0, ge=0, le=50)
    max_tokens: int = Field(96, ge=1)
    weights: Literal["f32", "bf16"] = "bf16"


class EvaluateStage(_Frozen):
    """How the checkpoint is judged, and what it must reach to be published."""

    num_scenes: int = Field(300, ge=10)
    gate: dict[str, float] = Field(default_factory=dict, description="figure -> least value")


class ExportStage(_Frozen):
    """Forms for other backends that the checkpoint carries, as `triptych export` names them: "onnx-f32"."""

    encoder: tuple[str, ...] = ()
    decoder: tuple[str, ...] = ()

    @field_validator("encoder", "decoder")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        known = [export_name(form, precision) for form in FORMATS for precision in PRECISIONS]
        if unknown := sorted(set(names) - set(known)):
            raise ValueError(f"{', '.join(unknown)}: known exports are {', '.join(known)}")
        return names

    @property
    def wanted(self) -> list[tuple[str, str]]:
        """Component and name of each."""
        return [("encoder", name) for name in self.encoder] + [("decoder", name) for name in self.decoder]


class Recipe(_Frozen):
    """One training run, from nothing to a published checkpoint."""

    kind: Literal["blocks"] = "blocks"
    name: str = Field(pattern=NAME)
    seed: int = Field(0, ge=0)
    out: Path
    runs: Path = Path("runs")
    compile: bool = Field(True, description="torch.compile the training forward passes (needs a C++ compiler)")
    template: Template = Template()
    tokenizer: TokenizerStage
    vae: VaeStage
    vae_decoder: VaeDecoderStage
    unet: UnetStage
    encoder: EncoderStage
    llm: LlmStage
    understanding: UnderstandingStage
    multimodal: MultimodalStage
    handover: HandoverStage
    checkpoint: CheckpointStage
    evaluate: EvaluateStage = EvaluateStage()
    export: ExportStage = ExportStage()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        encoder, llm, multimodal = self.encoder, self.llm, self.multimodal
        for name, value, factor in (
            ("encoder.batch_size", encoder.batch_size, encoder.group_size),
            ("encoder.image_size", encoder.image_size, encoder.patch_size),
            ("encoder.hidden_size", encoder.hidden_size, encoder.num_heads),
            ("llm.hidden_size", llm.hidden_size, 2 * llm.num_heads),
            ("llm.num_heads", llm.num_heads, llm.num_key_value_heads),
            ("multimodal.head_hidden_size", multimodal.head_hidden_size, multimodal.head_heads),
        ):
            if value % factor:
                raise ValueError(f"{name} {value} is no multiple of {factor}")
        if (least := min(self.unet.block_out_channels)) < self.unet.num_heads:
            raise ValueError(f"unet.num_heads {self.unet.num_heads} is more than the {least} channels of a block")
        for name, length in (
            ("llm.max_tokens", llm.max_tokens),
            ("understanding.groups: max_tokens", max(group.max_tokens for group in self.understanding.groups)),
            ("multimodal.groups: max_tokens", max(group.max_tokens for group in multimodal.groups)),
        ):
            if length > llm.max_model_len:
                raise ValueError(f"{name} {length} is more than llm.max_model_len {llm.max_model_len}")
        return self

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises InvalidArgument naming the file, the key and what is wrong with it."""
        return checked(cls, read_toml(path, "recipe"), path, "recipe")

    @property
    def folder(self) -> Path:
        """Where the run keeps its state."""
        return self.runs / self.name

    def distribution(self, stage: str) -> Distribution | None:
        """How a stage is spread; None for one process."""
        return getattr(getattr(self, stage, None), "distribution", None)

    def check(self) -> None:
        """Raises InvalidArgument, before any work, for what would otherwise be said when a stage comes to it."""
        check_out(self.out, self.folder)
        if not any(group.kind in DRAWING for group in self.multimodal.groups):
            raise InvalidArgument(f"multimodal.groups has none of {', '.join(DRAWING)}: handover learns from those")
        for name, figures in FIGURES.items():
            stage: Stage = getattr(self, name)
            if stage.distribution:  # of none does the objective say `is_distributed`
                raise InvalidArgument(f"{name}.distribution: this stage trains in one process only")
            known = [figure for figure in figures if self.encoder.num_crowds or figure != "words_right"]
            check_names(f"{name}.gate", stage.gate, known)
        check_names("evaluate.gate", self.evaluate.gate, [figure for name in BLOCKS for figure in REPORTED[name]])

    def digest(self, *stages: str) -> str:
        """Identity of the named stages' settings (and the seed): a stage's work is reused only under the same one.
        What does not touch the weights (gates, how often to evaluate and save) is left out, and what does so only by
        rounding: of a distribution, the precision alone counts."""
        settings = self.model_dump(mode="json", include={"seed", "template", *stages})
        for name in settings.keys() & set(stages):
            settings[name] = {key: value for key, value in settings[name].items() if key not in NOT_WEIGHTS}
            if distribution := self.distribution(name):
                settings[name]["precision"] = distribution.precision
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
