"""A tree decoder whose steps a GPU replays as one CUDA graph.

A step of a decoder is hundreds of small operations, and on a GPU telling them one by one takes
longer than their work: of a model of 2.7 billion parameters the weights are read in 2 ms, and the
operations are told in 30. Here every step is the same work on the same memory, so that it is
recorded once and then replayed whole: caches have their full size from the beginning, and where a
step writes stands in a tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

from compositional_prompts.captioner.decoding.decoders import TreeDecoder
from compositional_prompts.captioner.model.blip2_model import Captioner

ALIGNMENT = 8
"""Entries of a cache are a multiple of this, as fused attention wants its mask."""


class ReplayedDecoder(TreeDecoder):
    """As :class:`TreeDecoder`, for at most ``steps`` tokens; runs of tokens it cannot read.

    On a CPU it does the same steps without a graph. What :meth:`extend` returns holds until the
    next step.
    """

    # To go on with fewer images costs two steps: one told, and one recorded.
    leaving_share = 0.5

    def __init__(self, captioner: Captioner, queries: Tensor, num_beams: int, steps: int) -> None:
        super().__init__(captioner, queries, num_beams)
        self._steps = steps
        device = captioner.device
        images = len(queries)
        # What a step reads and changes, in place.
        self._parents = torch.zeros(images, num_beams, dtype=torch.long, device=device)
        self._tokens = torch.zeros_like(self._parents)
        self._positions = torch.full_like(self._parents, self._prefix.shape[1])
        self._columns = torch.arange(num_beams, device=device) + self._prefix.shape[1]
        self._graph: torch.cuda.CUDAGraph | None = None
        self._following: Tensor | None = None

    def begin(self, forced: Tensor | None = None) -> Tensor:
        if forced is not None:
            raise ValueError("A replayed decoder reads no forced tokens: take a TreeDecoder.")
        prefix, beams = self._prefix.shape[1], self._num_beams
        entries = prefix + beams * self._steps
        capacity = -(-entries // ALIGNMENT) * ALIGNMENT
        for layer in self._layers:
            layer.reserve(capacity)
        self._history = self._history.new_full((len(self._prefix), beams, capacity), -torch.inf)
        log_probs = super().begin()
        for layer in self._layers:
            layer.fix(self._columns)
        return log_probs

    def extend(self, parents: Tensor, tokens: Tensor) -> Tensor:
        self._parents.copy_(parents)
        self._tokens.copy_(tokens)
        if self._parents.device.type != "cuda":
            return self._step()
        if self._graph is not None:
            self._graph.replay()
        elif self._following is None:
            # The first step is done as it is told: libraries set themselves up in it.
            with self._aside():
                self._following = self._step()
        else:
            graph = torch.cuda.CUDAGraph()
            with self._aside():
                # Other threads may go on with what they do.
                graph.capture_begin(capture_error_mode="thread_local")
                self._following = self._step()
                graph.capture_end()
            graph.replay()
            self._graph = graph
        assert self._following is not None
        return self._following

    def select(self, rows: Tensor) -> None:
        super().select(rows)
        images = len(rows)
        self._parents, self._tokens = self._parents[:images], self._tokens[:images]
        self._positions = self._positions[:images]
        self._graph = self._following = None

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """A stream of its own, as recording asks for, between what was before and what follows."""
        stream, before = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(before)
        with torch.cuda.stream(stream):
            yield
        before.wait_stream(stream)

    def _step(self) -> Tensor:
        beams = self._num_beams
        self._history.copy_(self._history.take_along_dim(self._parents[:, :, None], dim=1))
        # Every beam sees itself alone among the new entries.
        own = self._history.new_full((beams, beams), -torch.inf).fill_diagonal_(0)
        self._history.index_copy_(2, self._columns, own.expand(len(self._history), -1, -1))
        logits = self._model(
            input_ids=self._tokens,
            attention_mask=self._history[:, None],
            position_ids=self._positions,
            past_key_values=self._cache,
            use_cache=True,
        ).logits
        self._columns += beams
        self._positions += 1
        return F.log_softmax(logits.float(), dim=-1)
