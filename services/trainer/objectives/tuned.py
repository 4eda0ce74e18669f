"""The parts of a model that tuning may train, as one module: everything between the frozen encoder and the frozen UNet
is one call of its `forward`, so that it can be sharded."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from services.trainer.data.tokens import IGNORE
from triptych.models.base import GenerationHead, Projector
from triptych.models.llms.causal import CausalLlm
from triptych.models.published.streamed import build_empty

INPUT, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"


class TokenRows(nn.Module):
    """Some tokens' rows of the LLM's two tables as parameters of their own; the tables stay as they are."""

    def __init__(self, ids: list[int], llm: CausalLlm) -> None:
        super().__init__()
        tables = llm.causal_lm.get_input_embeddings().weight, llm.causal_lm.get_output_embeddings().weight
        self.ids: Tensor
        self.places: Tensor
        self.register_buffer("ids", torch.tensor(ids), persistent=False)
        places = torch.full((len(tables[0]),), -1)
        places[self.ids] = torch.arange(len(ids))
        self.register_buffer("places", places, persistent=False)
        self.input, self.output = (nn.Parameter(table.detach()[self.ids].clone()) for table in tables)

    def embed(self, ids_BT: Tensor, embeds_BTD: Tensor) -> Tensor:
        """The embeddings, with these tokens' own in place of the table's."""
        places = self.places[ids_BT]
        return torch.where((places >= 0)[..., None], self.input[places.clamp(min=0)].to(embeds_BTD), embeds_BTD)

    def logits(self, hidden_ND: Tensor, logits_NV: Tensor) -> Tensor:
        """The logits, with these tokens' own in place of the table's."""
        return logits_NV.index_copy(1, self.ids, (hidden_ND @ self.output.to(hidden_ND).t()).to(logits_NV))

    def put_into(self, state: dict[str, Tensor]) -> None:
        """Replaces the rows of the tables in an LLM's state; a table stored in less precision becomes as precise."""
        for key, rows in ((INPUT, self.input), (OUTPUT, self.output)):
            state[key] = state[key].to(rows.dtype).index_copy(0, self.ids.to(rows.device), rows.detach())


class Told(NamedTuple):
    """What one pass finds out; sums over the pass, to be divided by what the whole batch has."""

    loss: Tensor  # next-token losses of all labels, added up, float32
    num_right: Tensor  # labels that were the most likely token
    conditioning: Tensor  # (M, L, C), for every picture to draw; (0, ...) where there is none


class TunedModule(nn.Module):
    """Projector, LLM and head; with LoRA, the LLM's linears carry adapters, and its special tokens rows of their own.

    Parts that have no work in a pass get some that counts nothing: with several ranks, all must do the same.
    """

    def __init__(
        self,
        projector: Projector,
        llm: CausalLlm,
        head: GenerationHead | None,
        rows: TokenRows | None,
        image_id: int,
        img_ids: list[int],
    ) -> None:
        super().__init__()
        self.projector: Projector = projector
        self.llm: CausalLlm = llm
        self.head: GenerationHead | None = head
        self.rows: TokenRows | None = rows
        self.image_id, self.num_img_tokens = image_id, len(img_ids)
        self.img_ids: Tensor
        self.register_buffer("img_ids", torch.tensor(img_ids), persistent=False)

    def forward(self, ids_BT: Tensor, labels_BT: Tensor, features_PND: Tensor) -> Told:
        """`features_PND` (P, N, D_vision) are the encoder's, for the pictures to look at in reading order."""
        embeds = self.llm.embed(ids_BT)
        if self.rows is not None:
            embeds = self.rows.embed(ids_BT, embeds)
        hidden = self.llm(self._with_pictures(ids_BT, embeds, features_PND))
        loss, num_right = self._read(hidden, labels_BT)
        conditioning, idle = self._conditioning(ids_BT, embeds, hidden)
        return Told(loss + idle, num_right, conditioning)

    def _with_pictures(self, ids_BT: Tensor, embeds_BTD: Tensor, features_PND: Tensor) -> Tensor:
        if not len(features_PND):
            nothing: Tensor = self.projector(features_PND.new_zeros(1, *features_PND.shape[1:]).to(embeds_BTD))
            return embeds_BTD + 0 * nothing.sum()
        slots = (ids_BT == self.image_id)[..., None]
        seen: Tensor = self.projector(features_PND.to(embeds_BTD))
        filled: Tensor = embeds_BTD.masked_scatter(slots, seen.to(embeds_BTD))
        return filled

    def _read(self, hidden_BTD: Tensor, labels_BT: Tensor) -> tuple[Tensor, Tensor]:
        targets = labels_BT[:, 1:]
        mask = targets != IGNORE
        wanted, states = targets[mask], hidden_BTD[:, :-1][mask]
        logits = self.llm.logits(states)
        if self.rows is not None:
            logits = self.rows.logits(states, logits)
        loss = cross_entropy(logits.float(), wanted, reduction="sum")
        return loss, (logits.argmax(-1) == wanted).sum().float()

    def _conditioning(self, ids_BT: Tensor, embeds_BTD: Tensor, hidden_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """The head's answer for every picture to draw, and a zero that reaches its weights when there is none."""
        nothing = hidden_BTD.new_zeros(1, self.num_img_tokens, hidden_BTD.shape[-1])
        if self.head is None:
            return nothing[:0].clone(), nothing.sum().float()  # no views: FSDP2 warns of them
        mask = torch.isin(ids_BT, self.img_ids)
        shape = (int(mask.sum()) // self.num_img_tokens, *nothing.shape[1:])
        if shape[0]:
            states, embeds = hidden_BTD[mask].reshape(shape), embeds_BTD[mask].reshape(shape)
            return self.head(states, embeds), nothing.sum().float()
        idle = self.head(nothing, nothing)
        return idle[:0].clone(), 0 * idle.float().sum()


def plain_llm(llm: CausalLlm, rows: TokenRows | None) -> CausalLlm:
    """The LLM as services load it: adapters merged into their linears, token rows put into the tables.

    Its tensors are the given ones wherever nothing was merged.
    """
    state = {key: value.detach() for key, value in llm.causal_lm.state_dict().items() if ".lora_" not in key}
    for name, layer in llm.causal_lm.named_modules():
        if hasattr(layer, "get_delta_weight"):  # peft's linears
            layered: Any = layer
            state[f"{name}.weight"] = state.pop(f"{name}.base_layer.weight") + layered.get_delta_weight("default")
    if rows is not None:
        rows.put_into(state)
    llm_class = type(llm)
    plain = build_empty(lambda: llm_class(llm.causal_lm.config))
    plain.causal_lm.load_state_dict({key: value.detach() for key, value in state.items()}, assign=True)
    return plain
