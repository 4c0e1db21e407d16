"""The model: Qwen3 that reads n interleaved embeddings per token. Only the difference from Qwen3 is written here.

    ids_BT -> x_BTND (one table per stream) -> x_BPD -> decoder layers -> h_BPD -> last streams h_BTD -> logits_BTV

Contract: inputs and outputs count tokens (ids, masks, positions, labels, `logits_to_keep`, hidden states), everything
between the embeddings and the last layer counts positions. `forward(..., return_streams=True)` leaves all n rows of
each token in every output, which then counts positions. n = 1 is exactly `Qwen3ForCausalLM`.
`modeling_qwen3_scale_seq.py` beside exported checkpoints is generated from this file, `cache.py` and `streams.py`.

    >>> from hidden_decoding import Qwen3ScaleSeqForCausalLM
    >>> model = Qwen3ScaleSeqForCausalLM.from_pretrained("path/to/checkpoint")
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.masking_utils import create_masks_for_generate
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen3.modeling_qwen3 import (
    Qwen3Attention,
    Qwen3DecoderLayer,
    Qwen3ForCausalLM,
    Qwen3Model,
    Qwen3PreTrainedModel,
    Qwen3RMSNorm,
    Qwen3RotaryEmbedding,
    apply_rotary_pos_emb,
    eager_attention_forward,
)

from hidden_decoding.modeling.cache import TokenCache, physical_cache, token_view
from hidden_decoding.modeling.configuration import Qwen3ScaleSeqConfig
from hidden_decoding.streams import (
    expand_mask_4d,
    expand_offsets,
    expand_positions,
    last_stream,
    merge_streams,
    positions_to_tokens,
    repeat_tokens,
    split_streams,
    stream_mask,
    tokens_to_positions,
)

if TYPE_CHECKING:
    from transformers.generation.configuration_utils import GenerationConfig

EXTRA_TABLES = "model.scale_seq_embed_tokens_list"


class Qwen3ScaleSeqAttention(Qwen3Attention):
    """Qwen3 attention that can drop all but the last stream's rows after attending and before `o_proj`.

    Slicing there is exact whatever the attention backend, and keeps every stream's keys and values.
    `cross_stream_open`, the share of attention to other streams, is below 1 only in a zero-jump start; never stored.
    """

    cross_stream_open: float = 1.0

    def __init__(self, config: Qwen3ScaleSeqConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.kind = config.stream_attention_of(layer_idx)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None,
        past_key_values: Cache | None = None,
        last_stream_of: int = 1,
        token_position_embeddings: tuple[Tensor, Tensor] | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """[B, P, D] -> [B, P, D], or [B, T, D] when `last_stream_of` is the number of streams."""
        if self.kind == "intra" and token_position_embeddings is not None:
            position_embeddings = token_position_embeddings
        rows_shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query = self.q_norm(self.q_proj(hidden_states).view(rows_shape)).transpose(1, 2)
        key = self.k_norm(self.k_proj(hidden_states).view(rows_shape)).transpose(1, 2)
        value = self.v_proj(hidden_states).view(rows_shape).transpose(1, 2)
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        past_positions: int | Tensor = 0
        if past_key_values is not None:
            if self.kind != "full" or self.cross_stream_open < 1:
                past_positions = past_key_values.get_seq_length(self.layer_idx) + 0  # a static cache counts in place
            key, value = past_key_values.update(key, value, self.layer_idx)
        attention_mask = self._stream_mask(attention_mask, query, key, past_positions)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        attended_BPHE, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            sliding_window=self.sliding_window,
            **kwargs,
        )
        attended = last_stream(attended_BPHE.flatten(2), last_stream_of).contiguous()
        return self.o_proj(attended), weights

    def _stream_mask(self, mask: Tensor | None, query: Tensor, key: Tensor, past_positions: int | Tensor) -> Any:
        """The mask of this layer's kind of attention, on top of the model's: [B or 1, 1, P, key positions]."""
        n, opened = self.config.num_streams, self.cross_stream_open
        if (n == 1 and self.kind != "local") or (self.kind == "full" and opened == 1):
            return mask
        if self.config._attn_implementation not in ("sdpa", "eager"):
            raise ValueError(
                f"attention {self.config._attn_implementation!r} cannot restrict attention between streams "
                "(stream_attention, zero-jump start): load the model with attn_implementation='sdpa' or 'eager'"
            )
        sizes = (query.shape[2], key.shape[2], past_positions, query.device)
        window = self.config.stream_window if self.kind == "local" else None
        allowed = stream_mask(*sizes, n, intra=self.kind == "intra" or opened == 0, window=window)
        if mask is not None and mask.dtype == torch.bool:
            allowed, mask = allowed & mask, None
        if mask is None and self.config._attn_implementation == "sdpa" and opened in (0, 1):
            return allowed if allowed.ndim == 4 else allowed[None, None]
        added = query.new_zeros(1, 1, *allowed.shape[-2:]) if mask is None else mask
        if 0 < opened < 1:
            added = added + (~stream_mask(*sizes, n, intra=True)).to(query.dtype) * math.log(opened)
        return added.masked_fill(~allowed, torch.finfo(query.dtype).min)


class Qwen3ScaleSeqDecoderLayer(Qwen3DecoderLayer):
    """Qwen3 decoder layer; the last one continues with the last stream of each token only."""

    def __init__(self, config: Qwen3ScaleSeqConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.self_attn = Qwen3ScaleSeqAttention(config, layer_idx)
        self.keeps_last_stream_of = config.num_streams if layer_idx == config.num_hidden_layers - 1 else 1

    def forward(self, hidden_states: Tensor, *args: Any, return_streams: bool = False, **kwargs: Any) -> Tensor:
        """[B, P, D] -> [B, P, D]; in the last layer [B, T, D] unless `return_streams`."""
        kept = 1 if return_streams else self.keeps_last_stream_of
        attended, _ = self.self_attn(self.input_layernorm(hidden_states), *args, last_stream_of=kept, **kwargs)
        hidden_states = last_stream(hidden_states, kept) + attended
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class Qwen3ScaleSeqPreTrainedModel(Qwen3PreTrainedModel):
    """Names our layer classes where transformers asks for them."""

    config: Qwen3ScaleSeqConfig
    config_class = Qwen3ScaleSeqConfig
    _no_split_modules = ["Qwen3ScaleSeqDecoderLayer"]
    _can_record_outputs = {"hidden_states": Qwen3ScaleSeqDecoderLayer, "attentions": Qwen3ScaleSeqAttention}


class Qwen3ScaleSeqModel(Qwen3ScaleSeqPreTrainedModel, Qwen3Model):
    """The backbone. `embed_tokens` is stream 1; `scale_seq_embed_tokens_list` holds streams 2..n."""

    def __init__(self, config: Qwen3ScaleSeqConfig) -> None:
        # Past Qwen3Model's own constructor, which would build (and at 8B allocate) layers only to be thrown away.
        super(Qwen3Model, self).__init__(config)
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        self.scale_seq_embed_tokens_list = nn.ModuleList(
            nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx) for _ in range(config.scale_seq_times)
        )
        self.layers = nn.ModuleList(
            Qwen3ScaleSeqDecoderLayer(config, layer_idx) for layer_idx in range(config.num_hidden_layers)
        )
        self.norm = Qwen3RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = Qwen3RotaryEmbedding(config=config)
        self.gradient_checkpointing = False
        self.has_sliding_layers = "sliding_attention" in config.layer_types
        self.post_init()

    def embed_streams(self, ids_BT: Tensor) -> Tensor:
        """ids_BT -> x_BTND."""
        tables = (self.embed_tokens, *self.scale_seq_embed_tokens_list)
        return torch.stack([table(ids_BT).to(self.embed_tokens.weight.device) for table in tables], dim=-2)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Any = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        return_streams: bool = False,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast | tuple[Any, ...]:
        """Runs n * T positions; `last_hidden_state` is [B, T, D] ([B, n * T, D] with `return_streams`).

        `inputs_embeds` is [B, T, n, D] ([B, T, D] also when n = 1). `attention_mask` is 2-D [B, S] or 4-D [B, 1, T, S]
        in tokens, or the dict of ready masks in positions that `generate()` makes for static caches. Attention weights
        asked for with `output_attentions` are in positions.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("You must specify exactly one of input_ids or inputs_embeds")
        n = self.config.num_streams
        x_BTND = self.embed_streams(input_ids) if input_ids is not None else self._checked_embeds(inputs_embeds)
        cache = physical_cache(past_key_values)
        past_tokens = 0 if cache is None else positions_to_tokens(cache.get_seq_length(), n)
        if position_ids is None:
            position_ids = (torch.arange(x_BTND.shape[1], device=x_BTND.device) + past_tokens).unsqueeze(0)
        rope_type = (self.config.rope_parameters or {}).get("rope_type")
        if "intra" in (self.config.stream_attention or []) and rope_type != "linear":
            # Linear positions need nothing: within a stream, rows a token apart are one trained position apart.
            kwargs["token_position_embeddings"] = self.rotary_emb(x_BTND, repeat_tokens(position_ids, n))
        outputs = super().forward(
            inputs_embeds=merge_streams(x_BTND),
            attention_mask=_mask_in_positions(attention_mask, n, past_tokens),
            position_ids=expand_positions(position_ids, n),
            past_key_values=cache,
            use_cache=use_cache,
            return_streams=return_streams,
            **_packing_in_positions(kwargs, n),
        )
        if outputs.past_key_values is not None:
            # The caller's own view where there is one: `generate()` keeps a mark on it.
            given = isinstance(past_key_values, TokenCache)
            outputs.past_key_values = past_key_values if given else token_view(outputs.past_key_values, n)
        if outputs.hidden_states is not None and not return_streams:
            *rows, last = outputs.hidden_states
            outputs.hidden_states = (*(None if h is None else last_stream(h, n) for h in rows), last)
        if return_dict is None:
            return_dict = getattr(self.config, "return_dict", True)
        return outputs if return_dict else outputs.to_tuple()

    def _checked_embeds(self, inputs_embeds: Any) -> Tensor:
        n = self.config.num_streams
        if n == 1 and inputs_embeds.ndim == 3:
            inputs_embeds = split_streams(inputs_embeds, 1)
        if inputs_embeds.ndim != 4 or inputs_embeds.shape[2] != n:
            raise ValueError(
                f"inputs_embeds has shape {tuple(inputs_embeds.shape)}, but a model of {n} streams reads "
                f"[batch, tokens, {n}, width]: one embedding per stream and token, as model.model.embed_streams(ids)"
            )
        return inputs_embeds


class Qwen3ScaleSeqForCausalLM(Qwen3ScaleSeqPreTrainedModel, Qwen3ForCausalLM):
    """`Qwen3ForCausalLM` with n streams: logits, labels, generation and caches all count tokens.

    `forward` is Qwen3's, unchanged. Given `return_streams=True` it hands it on: logits are [B, n * T, V] then, what
    each stream would predict, and `logits_to_keep` counts positions.
    """

    def __init__(self, config: Qwen3ScaleSeqConfig) -> None:
        super(Qwen3ForCausalLM, self).__init__(config)  # its own constructor would build a second backbone
        self.model = Qwen3ScaleSeqModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """As in transformers, but refuses weights without the tables of streams 2..n instead of inventing them."""
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        absent = sorted(key for key in info["missing_keys"] if key.startswith(EXTRA_TABLES))
        if absent:
            raise ValueError(
                f"the configuration asks for n = {model.config.num_streams} streams, but the weights hold no "
                f"{', '.join(absent)}: these tables would be random. To give a plain Qwen3 its streams, run: "
                f"hidden-decoding upcycle BASE --streams {model.config.num_streams} --out DIR"
            )
        return (model, info) if output_loading_info else model

    def _resize_token_embeddings(
        self, new_num_tokens: int, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        tables = self.model.scale_seq_embed_tokens_list
        for stream, table in enumerate(tables):
            resized = self._get_resized_embeddings(table, new_num_tokens, pad_to_multiple_of, mean_resizing)
            tables[stream] = resized.requires_grad_(all(weight.requires_grad for weight in table.parameters()))
        return super()._resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)

    def _prepare_static_cache(self, *args: Any, max_cache_len: int, **kwargs: Any) -> Cache:
        positions = tokens_to_positions(max_cache_len, self.config.num_streams)
        return super()._prepare_static_cache(*args, max_cache_len=positions, **kwargs)

    def _prepare_cache_for_generation(
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)
        if (cache := model_kwargs.get("past_key_values")) is not None:
            view = token_view(cache, self.config.num_streams)
            if getattr(cache, "_is_user_defined", False):
                view._is_user_defined = True
            model_kwargs["past_key_values"] = view

    @staticmethod
    def create_masks_for_generate(
        config: Qwen3ScaleSeqConfig,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None,
        past_key_values: Cache | None,
        position_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Ready masks in positions for `generate()` with a static cache; `inputs_embeds` only carries [B, T] here."""
        n = config.num_streams
        return create_masks_for_generate(
            config,
            repeat_tokens(inputs_embeds, n, dim=1),
            _mask_in_positions(attention_mask, n, 0),
            physical_cache(past_key_values),
            None if position_ids is None else expand_positions(position_ids, n),
            **kwargs,
        )


def _mask_in_positions(mask: Any, num_streams: int, past_tokens: int | Tensor) -> Any:
    """A user's attention mask, in tokens, for the rows the layers see. A dict is in positions already."""
    if mask is None or isinstance(mask, dict) or num_streams == 1:
        return mask
    if not isinstance(mask, Tensor) or mask.ndim not in (2, 4):
        raise ValueError(
            f"attention_mask is {type(mask).__name__} {tuple(getattr(mask, 'shape', ()))}; a model of {num_streams} "
            "streams takes [batch, tokens] or [batch, heads or 1, query tokens, key tokens]"
        )
    if mask.ndim == 2:
        return repeat_tokens(mask, num_streams)
    return expand_mask_4d(mask, num_streams, past_tokens)


def _packing_in_positions(kwargs: dict[str, Any], num_streams: int) -> dict[str, Any]:
    """The boundaries of packed documents, in tokens (`cu_seq_lens_*`, `max_length_*`), for the rows the layers see."""
    if num_streams == 1:
        return kwargs
    if isinstance(kwargs.get("cu_seq_lens_k"), dict):
        raise ValueError(
            f"transformers' continuous batching (generate_batch) plans its cache for one position per token, not "
            f"{num_streams}; hidden_decoding.LocalEngine runs many requests together"
        )
    expanded = dict(kwargs)
    for key in ("cu_seq_lens_q", "cu_seq_lens_k"):
        if expanded.get(key) is not None:
            expanded[key] = expand_offsets(expanded[key], num_streams)
    for key in ("max_length_q", "max_length_k"):
        if expanded.get(key) is not None:
            expanded[key] = tokens_to_positions(expanded[key], num_streams)
    return expanded


__all__ = ["Qwen3ScaleSeqForCausalLM", "Qwen3ScaleSeqModel", "Qwen3ScaleSeqPreTrainedModel", "TokenCache"]
