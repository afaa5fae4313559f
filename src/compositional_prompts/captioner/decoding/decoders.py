"""Language models that continue several texts of an image at once, with what they have read cached.

:class:`TreeDecoder` is for decoder-only models (OPT). The texts of an image share one cache: its
entries are the image and begin of text, once, and then every token that any beam ever took, in the
order of the steps. So the beams of an image are a tree, and an attention mask says which entries
lie on the way to which beam (tree attention: Cai et al., 2024, "Medusa", section 2.1.2). When
beams are chosen anew only this mask changes; nothing in the cache is reordered or copied.

:class:`RowDecoder` is for encoder-decoder models (T5), whose relative positions need each text
contiguous: a beam is a row of the batch, and caches are reordered. The encoder's output is cached
once for all beams of a row.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Cache, DynamicCache, EncoderDecoderCache
from transformers.cache_utils import CacheLayerMixin

from compositional_prompts.captioner.model.blip2_model import Captioner

GROWTH = 32
"""Entries that a cache is made larger by, at least."""


class Decoder(Protocol):
    """What a search needs of a language model; log-probabilities are float32.

    Attributes:
        leaving_share: of a batch that must be done before it pays to go on without it.
    """

    leaving_share: float

    def begin(self) -> Tensor:
        """Read the images; log-probabilities of the first token, ``[images, 1, vocabulary]``."""
        ...

    def extend(self, parents: Tensor, tokens: Tensor) -> Tensor:
        """Make beam ``parents`` continued by ``tokens`` the beams, both ``[images, beams]``.

        Returns:
            Log-probabilities of what follows, ``[images, beams, vocabulary]``.
        """
        ...

    def select(self, rows: Tensor) -> None:
        """Go on with the images ``rows``, int64, only."""
        ...


def _projected(captioner: Captioner, queries: Tensor) -> Tensor:
    """Query features as the language model reads them."""
    projection = captioner.model.language_projection
    images: Tensor = projection(queries.to(captioner.device, projection.weight.dtype))
    return images


LEAVING_SHARE = 0.125
"""Share of a batch that must be done before it is taken out of it, which moves other images."""


def closed_up(done: Tensor) -> Tensor:
    """The images that are not done, int64, those at the end in the places of those that are."""
    staying = (~done).nonzero()[:, 0]
    rows = torch.arange(len(staying), device=done.device)
    rows[done[: len(staying)]] = staying[staying >= len(staying)]
    return rows


class _EntryLayer(CacheLayerMixin):
    """Keys and values of a layer, ``[images, heads, capacity, width]``, ``length`` of them used."""

    is_sliding = False
    keys: Any  # a tensor from the first update on
    values: Any

    def __init__(self) -> None:
        super().__init__()
        self.length = 0
        self.reserved = 0
        self._columns: Tensor | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys = self._room(key_states, self.reserved)
        self.values = self._room(value_states, self.reserved)
        self.is_initialized = True

    @staticmethod
    def _room(like: Tensor, entries: int) -> Tensor:
        images, heads, _, width = like.shape
        return like.new_empty(images, heads, entries, width)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self._columns is not None:
            self.keys.index_copy_(2, self._columns, key_states)
            self.values.index_copy_(2, self._columns, value_states)
            return self.keys, self.values
        new = slice(self.length, self.length + key_states.shape[2])
        self.keys[:, :, new] = key_states
        self.values[:, :, new] = value_states
        self.length = new.stop
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def reserve(self, entries: int) -> None:
        """Make room for ``entries`` in all."""
        self.reserved = entries
        if self.is_initialized:
            used = slice(self.length)
            for name in ("keys", "values"):
                old = getattr(self, name)
                new = self._room(old, entries)
                new[:, :, used] = old[:, :, used]
                setattr(self, name, new)

    def fix(self, columns: Tensor) -> None:
        """Write at ``columns``, int64, which the caller moves on, and give all entries from now on:
        those that are not used yet are zero, and to be masked.
        """
        self.keys[:, :, self.length :] = 0
        self.values[:, :, self.length :] = 0
        self.length = self.keys.shape[2]
        self._columns = columns

    def keep(self, entries: Tensor) -> None:
        """Keep the entries with numbers ``[images, kept]`` (ascending) and forget the others."""
        kept = entries.shape[1]
        index = entries[:, None, :, None].expand(-1, self.keys.shape[1], -1, self.keys.shape[3])
        self.keys[:, :, :kept] = self.keys.gather(2, index)
        self.values[:, :, :kept] = self.values.gather(2, index)
        self.length = kept

    def select(self, places: Tensor, rows: Tensor, images: int) -> None:
        """Move the images ``rows`` to ``places`` and keep the first ``images``."""
        used = slice(self.length)
        self.keys[places, :, used] = self.keys[rows, :, used]
        self.values[places, :, used] = self.values[rows, :, used]
        self.keys, self.values = self.keys[:images], self.values[:images]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return -1


class TreeDecoder:
    """See the module; the beams of an image are the query positions of one row of the batch."""

    leaving_share = LEAVING_SHARE

    def __init__(self, captioner: Captioner, queries: Tensor, num_beams: int) -> None:
        """As :func:`make_decoder`."""
        self._captioner = captioner
        self._model: Any = captioner.model.language_model
        images = _projected(captioner, queries)
        begin = torch.tensor(captioner.begin_of_text, device=captioner.device)
        start = captioner.model.get_input_embeddings()(begin).to(images.dtype)
        self._prefix = torch.cat([images, start.expand(len(images), -1, -1)], dim=1)
        self._num_beams = num_beams
        self._layers = [_EntryLayer() for _ in range(self._model.config.num_hidden_layers)]
        self._cache = Cache(layers=list(self._layers))
        device = captioner.device
        # What is added to attention scores has the dtype that attention is computed in.
        autocast = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if autocast else images.dtype
        # Entries of each beam's history: 0, others -inf; as wide as the caches' capacity.
        self._history = torch.empty(len(images), num_beams, 0, dtype=dtype, device=device)
        self._used = 0
        # Tokens of each beam's text so far.
        self._lengths = torch.zeros(len(images), num_beams, dtype=torch.long, device=device)

    def begin(self, forced: Tensor | None = None) -> Tensor:
        """Read the images, and tokens ``[forced]`` that every text begins with.

        Returns:
            Log-probabilities of the first token and of what follows each forced one,
            ``[images, 1 + forced, vocabulary]``.
        """
        embeds = self._prefix
        count = 0 if forced is None else len(forced)
        if forced is not None and count:
            tokens = self._captioner.model.get_input_embeddings()(forced).to(embeds.dtype)
            embeds = torch.cat([embeds, tokens.expand(len(embeds), -1, -1)], dim=1)
        entries = embeds.shape[1]
        device = embeds.device
        self._reserve(entries)
        self._history[:, :, :entries] = 0
        positions = torch.arange(entries, device=device)
        causal = positions[None, :] > positions[:, None]
        mask = self._history.new_zeros(entries, entries).masked_fill(causal, -torch.inf)
        self._lengths += count
        return self._log_probs(
            mask[None, None], positions[None], inputs_embeds=embeds, logits_to_keep=1 + count
        )

    def extend(self, parents: Tensor, tokens: Tensor) -> Tensor:
        beams = self._num_beams
        self._reserve(beams)
        before = self._used
        past = self._history[:, :, :before].take_along_dim(parents[:, :, None], dim=1)
        self._lengths = self._lengths.gather(1, parents)
        self._history[:, :, :before] = past
        # Every beam sees itself alone among the new entries.
        self._history[:, :, before : before + beams] = torch.full(
            (beams, beams), -torch.inf, dtype=past.dtype, device=past.device
        ).fill_diagonal_(0)
        positions = self._prefix.shape[1] + self._lengths
        self._lengths = self._lengths + 1
        mask = self._history[:, None, :, : before + beams]
        return self._log_probs(mask, positions, input_ids=tokens)

    def extend_runs(
        self, parents: Tensor, tokens: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`extend`, by several tokens a beam in one step.

        Args:
            parents: int64 ``[images, beams]``.
            tokens: int64 ``[images, beams, longest]``, padded on the right.
            lengths: how many of them a beam takes, int64 ``[images, beams]``; 0 leaves the beam
                without anything to follow.

        Returns:
            Log-probabilities of the tokens after the first, summed over each beam's run, float32
            ``[images, beams]``, and of what follows the run, ``[images, beams, vocabulary]``;
            both are without meaning where the length is 0.
        """
        ends = lengths.cumsum(1)
        starts = ends - lengths
        # The runs of an image lie one behind the other; shorter rows are padded at the end.
        width = int(ends[:, -1].max())
        self._reserve(width)
        before = self._used
        slots = torch.arange(width, device=tokens.device)
        beams = self._num_beams
        owner = (slots[None, None] >= ends[:, :, None]).sum(1)
        real = owner < beams
        owner = owner.clamp(max=beams - 1)
        within = slots[None] - starts.gather(1, owner)
        run = tokens.take_along_dim(owner[:, :, None], dim=1)
        ids = run.gather(2, within.clamp(max=tokens.shape[2] - 1)[:, :, None])[:, :, 0]

        past = self._history[:, :, :before].take_along_dim(parents[:, :, None], dim=1)
        self._lengths = self._lengths.gather(1, parents)
        positions = self._prefix.shape[1] + (self._lengths.gather(1, owner) + within) * real
        self._lengths = self._lengths + lengths
        seen = (owner[:, :, None] == owner[:, None]) & (slots[None, :] <= slots[:, None])
        own = (owner[:, None] == torch.arange(beams, device=owner.device)[:, None]) & real[:, None]
        mask = torch.cat([past.take_along_dim(owner[:, :, None], dim=1), _additive(seen, past)], 2)
        self._history[:, :, :before] = past
        self._history[:, :, before : before + width] = _additive(own, past)
        log_probs = self._log_probs(mask[:, None], positions, input_ids=ids)

        follows = ids.roll(-1, dims=1)[:, :, None]
        inner = real & (within + 1 < lengths.gather(1, owner))
        taken = log_probs.gather(2, follows)[:, :, 0].masked_fill(~inner, 0)
        sums = taken.new_zeros(lengths.shape).scatter_add_(1, owner, taken)
        last = (ends - 1).clamp(min=0)
        return sums, log_probs.take_along_dim(last[:, :, None], dim=1)

    def select(self, rows: Tensor) -> None:
        # Images are moved into the places of those that left; the others stay where they are.
        places = (rows != torch.arange(len(rows), device=rows.device)).nonzero()[:, 0]
        for layer in self._layers:
            layer.select(places, rows[places], len(rows))
        self._history = self._history[rows]
        self._lengths = self._lengths[rows]
        self._prefix = self._prefix[: len(rows)]

    def _reserve(self, entries: int) -> None:
        """Make room for more entries: by forgetting dead ones, or by growing."""
        needed = self._used + entries
        capacity = self._history.shape[2]
        if needed <= capacity:
            return
        if self._used:
            live = (self._history[:, :, : self._used] == 0).any(1)
            kept = int(live.sum(1).max())
            if kept + entries + GROWTH // 2 <= capacity:
                index = (~live).to(torch.int8).sort(dim=1, stable=True).indices[:, :kept]
                for layer in self._layers:
                    layer.keep(index)
                self._history[:, :, :kept] = self._history.take_along_dim(index[:, None], dim=2)
                self._used = kept
                return
        capacity = needed + GROWTH
        for layer in self._layers:
            layer.reserve(capacity)
        history = self._history.new_full((*self._history.shape[:2], capacity), -torch.inf)
        history[:, :, : self._used] = self._history[:, :, : self._used]
        self._history = history

    def _log_probs(self, mask: Tensor, positions: Tensor, **inputs: Any) -> Tensor:
        logits = self._model(
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            **inputs,
        ).logits
        self._used = self._layers[0].length
        return F.log_softmax(logits.float(), dim=-1)


def _additive(visible: Tensor, like: Tensor) -> Tensor:
    """A bool mask as what is added to attention scores, in the dtype of ``like``."""
    return like.new_zeros(visible.shape).masked_fill(~visible, -torch.inf)


class RowDecoder:
    """See the module; a beam of an image is a row of the batch."""

    leaving_share = LEAVING_SHARE

    def __init__(self, captioner: Captioner, queries: Tensor, num_beams: int) -> None:
        """As :func:`make_decoder`."""
        self._model: Any = captioner.model.language_model
        self._images = _projected(captioner, queries)
        self._num_beams = num_beams
        self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self._encoded = self._images

    def begin(self) -> Tensor:
        start = self._model.config.decoder_start_token_id
        self._encoded = self._model.get_encoder()(inputs_embeds=self._images).last_hidden_state
        tokens = torch.full((len(self._images), 1), start, device=self._images.device)
        log_probs = self._log_probs(tokens)
        # Until here all beams are alike.
        self._cache.batch_repeat_interleave(self._num_beams)
        self._encoded = self._encoded.repeat_interleave(self._num_beams, dim=0)
        return log_probs

    def extend(self, parents: Tensor, tokens: Tensor) -> Tensor:
        if self._num_beams > 1:
            # What the encoder said is the same for all beams of an image.
            cache: Any = self._cache.self_attention_cache
            cache.reorder_cache(self._rows_of(parents))
        log_probs = self._log_probs(tokens.flatten()[:, None])
        return log_probs.view(*parents.shape, -1)

    def select(self, rows: Tensor) -> None:
        beams = torch.arange(self._num_beams, device=rows.device)
        flat = (rows[:, None] * self._num_beams + beams).flatten()
        self._cache.batch_select_indices(flat)
        self._encoded = self._encoded[flat]

    def _rows_of(self, parents: Tensor) -> Tensor:
        first = torch.arange(len(parents), device=parents.device)[:, None] * self._num_beams
        return (first + parents).flatten()

    def _log_probs(self, tokens: Tensor) -> Tensor:
        logits = self._model(
            encoder_outputs=(self._encoded,),
            decoder_input_ids=tokens,
            past_key_values=self._cache,
            use_cache=True,
        ).logits
        return F.log_softmax(logits.float(), dim=-1)
