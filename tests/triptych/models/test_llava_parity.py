"""Understanding is transformers' LlavaForConditionalGeneration: same weights by name, same logits and tokens."""

import pytest
import torch
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    SiglipVisionConfig,
)

from tests.tiny import TEMPLATE, tiny_codec
from triptych.models.encoder_stage import EncoderStage
from triptych.models.encoders.clip import ClipEncoder
from triptych.models.encoders.siglip import SiglipEncoder
from triptych.models.llm_stage import LlmStage
from triptych.models.llms.llama import LlamaLlm
from triptych.models.llms.mistral import MistralLlm
from triptych.models.processors import ImageProcessor
from triptych.models.projectors.mlp import MlpProjector
from triptych.models.unified import generate
from triptych.prompts import ImageSlot, Segment, Special, Text

CODEC = tiny_codec()
# transformers marks patches by an id of their own; ours has embeddings there, so any id that no text holds will do.
IMAGE_ID = CODEC.special_id("<pad>")
MAX_TOKENS = 24
ONE: list[Segment] = [Special("<s>"), ImageSlot(0), Text("USER: what is left of the cube? ASSISTANT:")]
TWO: list[Segment] = [
    Special("<s>"),
    Special("[I2T]"),
    ImageSlot(0),
    Text("USER: and here"),
    ImageSlot(1),
    Text(" where is the ball? ASSISTANT:"),
]
SWAPPED: list[Segment] = [ImageSlot(1) if s == ImageSlot(0) else ImageSlot(0) if s == ImageSlot(1) else s for s in TWO]
PROMPTS = {"one picture": ONE, "two pictures": TWO, "two swapped": SWAPPED, "none": [ONE[0], ONE[2]]}


class Pair:
    """The oracle and, with its weights copied by name, our stages: SigLIP and Mistral, or CLIP and Llama."""

    def __init__(self, seed: int, sliding_window: int | None = None, llava: bool = False) -> None:
        torch.manual_seed(seed)
        window = {} if llava else {"sliding_window": sliding_window}
        text = (LlamaConfig if llava else MistralConfig)(
            vocab_size=len(CODEC.tokenizer),
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=12,
            max_position_embeddings=256,
            rms_norm_eps=1e-5,
            **window,
            initializer_range=0.3,  # at the usual 0.02 every next token is the last one again
        )
        vision = (CLIPVisionConfig if llava else SiglipVisionConfig)(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=32,
            patch_size=16,
        )
        config = LlavaConfig(
            vision_config=vision,
            text_config=text,
            image_token_index=IMAGE_ID,
            vision_feature_layer=-2,
            vision_feature_select_strategy="default" if llava else "full",  # "default" drops the class token
            image_seq_length=4,
        )
        self.oracle = LlavaForConditionalGeneration(config).eval()
        state = self.oracle.state_dict()
        encoder, llm = (ClipEncoder(vision), LlamaLlm(text)) if llava else (SiglipEncoder(vision), MistralLlm(text))
        projector = MlpProjector(MlpProjector.Config(input_size=32, hidden_size=48))
        encoder.vision.load_state_dict(under("model.vision_tower.", state))
        projector.load_state_dict(under("model.multi_modal_projector.", state))
        llm.causal_lm.model.load_state_dict(under("model.language_model.", state))
        llm.causal_lm.lm_head.load_state_dict(under("lm_head.", state))
        self.encoder = EncoderStage(encoder, projector, ImageProcessor(size=32)).eval()
        self.llm = LlmStage(llm, CODEC, TEMPLATE).eval()

    def prompt(self, segments: list[Segment], pixels: Tensor) -> Tensor:
        return self.llm.embed(segments, list(self.encoder(pixels)))

    @staticmethod
    def ids(segments: list[Segment]) -> Tensor:
        parts: list[int] = []
        for segment in segments:
            if isinstance(segment, ImageSlot):
                parts += [IMAGE_ID] * 4
            elif isinstance(segment, Special):
                parts.append(CODEC.special_id(segment.token))
            else:
                parts += CODEC.encode(segment.text)
        return torch.tensor([parts])


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    assert found, f"no key of the oracle starts with {prefix}"
    return found


def pictures(segments: list[Segment]) -> Tensor:
    """pixel_values of Picture(0) and Picture(1), as many as the prompt shows."""
    number = sum(isinstance(segment, ImageSlot) for segment in segments)
    return torch.randn(number, 3, 32, 32, generator=torch.Generator().manual_seed(5))


def oracle_pixels(segments: list[Segment], pixels: Tensor) -> Tensor | None:
    """In the order of their slots, as transformers fills them."""
    order = [segment.index for segment in segments if isinstance(segment, ImageSlot)]
    return pixels[order] if order else None


PAIRS = {"full attention": {}, "sliding window 8": {"sliding_window": 8}, "LLaVA-1.5": {"llava": True}}


@pytest.fixture(scope="module", params=PAIRS.values(), ids=PAIRS)
def pair(request: pytest.FixtureRequest) -> Pair:
    torch.set_num_threads(1)
    return Pair(seed=0, **request.param)


@pytest.mark.parametrize("segments", PROMPTS.values(), ids=PROMPTS)
@torch.no_grad()
def test_logits(pair: Pair, segments: list[Segment]) -> None:
    pixels = pictures(segments)
    wanted = pair.oracle(
        input_ids=pair.ids(segments), pixel_values=oracle_pixels(segments, pixels), output_hidden_states=True
    )
    hidden = pair.llm(pair.prompt(segments, pixels) if len(pixels) else pair.llm.embed(segments, []))
    torch.testing.assert_close(hidden, wanted.hidden_states[-1], rtol=0, atol=1e-4)
    torch.testing.assert_close(pair.llm.logits(hidden), wanted.logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("segments", [ONE, TWO], ids=["one picture", "two pictures"])
@torch.no_grad()
def test_greedy_tokens(pair: Pair, segments: list[Segment]) -> None:
    pixels = pictures(segments)
    wanted = pair.oracle.generate(
        input_ids=pair.ids(segments),
        pixel_values=oracle_pixels(segments, pixels),
        attention_mask=torch.ones_like(pair.ids(segments)),
        max_new_tokens=MAX_TOKENS,
        do_sample=False,
        suppress_tokens=pair.llm.banned_ids("forbid", 0),
        eos_token_id=pair.llm.eos_id,
        pad_token_id=IMAGE_ID,
    )[0, pair.ids(segments).shape[1] :].tolist()
    reply, handed_over = generate(pair.llm, pair.prompt(segments, pixels), "forbid", MAX_TOKENS)
    assert reply.token_ids == wanted
    assert len(set(wanted)) > 3  # no trivial loop
    assert not handed_over


@torch.no_grad()
def test_the_picture_matters(pair: Pair) -> None:
    first = pair.llm(pair.prompt(TWO, pictures(TWO)))
    other = pair.llm(pair.prompt(SWAPPED, pictures(TWO)))
    assert (first - other).abs().max() > 0.1
