"""One language model: feed tokens, give logits, roll back.

A `LanguageModel` holds weights and tables and no sequence.
"""

from __future__ import annotations

import inspect
import logging
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..decision.gated import Gate, Scored, logits_of
from ..forks import Lock
from ..prompts import prompt_ids
from ..vocab.end_tokens import end_ids
from ..vocab.vocabulary import Vocabulary
from .compiled_layers import CannotCompile, CompiledLayers
from .context import Context
from .cuda_graphs import GraphRunner, GraphRunners
from .devices import is_offloaded, output_device, run_devices
from .generation_config import warn_of_unheeded
from .graph_capture import CannotCapture, GraphContents
from .identity import config_digest, tokenizer_digest, weights_digest
from .kv_pool import KVSegment, Pool, SpareSegments
from .lookahead import MAX_DRAFT_TOKENS, Lookahead
from .precision import precision_of
from .shallow import shallow
from .transformers_cache import TransformersCache
from .trial import NotCausal, Trial, find_state_use, without_wrappers
from .varlen import VarlenForward
from .varlen_batch import VarlenUnsupported

logger = logging.getLogger("blendin")


class LanguageModel:
    """A transformers causal language model with its tokenizer and vocabulary; a `Model`.

    Attributes:
        window: how many tokens its sliding layers keep; None where it has none.
        varlen: reads many sequences in one forward; None, with a reason logged, where none can.
    """

    varlen: VarlenForward | None

    is_async, can_draft, writes_ahead, reads_whole_texts = False, True, False, False
    top: int | None = None

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        capture: bool | None = None,
    ) -> None:
        """Wraps a loaded model.

        Args:
            model: with its weights where they are to stay.
            tokenizer: its own.
            name: for messages and traces.
            capture: whether frequent forwards are captured as CUDA graphs; by default on CUDA
                devices.

        Raises:
            ValueError: where the tokenizer cannot be aligned, no end token is known, or the model
                is not causal.
        """
        self.model, self.tokenizer, self.name = model.eval(), tokenizer, name
        text_config = model.config.get_text_config()
        self.vocabulary = Vocabulary(tokenizer, size=text_config.vocab_size)
        self.max_length: int | None = getattr(text_config, "max_position_embeddings", None)
        self.window = sliding_window(text_config)
        configured = getattr(model.generation_config, "eos_token_id", None)
        self.end_ids = end_ids(configured, tokenizer, text_config.vocab_size, name)
        if not self.end_ids:
            raise ValueError(
                f"{name!r} has no end token, so nothing would stop it; set tokenizer.eos_token or "
                "model.generation_config.eos_token_id"
            )
        warn_of_unheeded(model.generation_config, name)
        self.forwards, self._lock = 0, Lock()
        signature = inspect.signature(without_wrappers(model).forward)
        self._keeps_logits = "logits_to_keep" in signature.parameters
        capture = self.device.type == "cuda" if capture is None else capture
        self._graph_contents = GraphContents(name)
        self._runners = None
        if capture and self._keeps_logits:
            self._runners = GraphRunners(model, name, self._graph_contents)
        self._spare = SpareSegments()
        try:
            with torch.compiler.set_stance("force_eager"):  # or each shape would be compiled
                self._try_reading()
        except NotCausal as reason:
            raise ValueError(f"{name!r} cannot be decoded with: {reason}") from reason
        if capture and self.varlen is not None:
            self.varlen.capture(name, self._graph_contents)

    @property
    def device(self) -> torch.device:
        """Where its logits are."""
        return output_device(self.model)

    @property
    def precision(self) -> str:
        """The name of its weights' dtype, and how they are packed where they are."""
        return precision_of(self.model)

    @property
    def identity(self) -> dict[str, Any]:
        """Digests of its weights as they are now, its configuration and tokenizer (`identity`).

        They are made anew each time: half a second for a gigabyte and core.
        """
        return {
            "weights": weights_digest(self.model),
            "config": config_digest(self.model),
            "tokenizer": tokenizer_digest(self.tokenizer),
            "end_ids": sorted(self.end_ids),
        }

    def forward(self, context: Context, positions: int = 1) -> Tensor:
        """Reads what the context has gained since the last forward, in one go.

        Args:
            context: of this model; its new tokens enter its cache.
            positions: how many of the last positions to score; 1 costs nothing where nothing is
                new.

        Returns:
            `[positions, V]` logits in the model's dtype: row i scores the token that follows
            `context.ids[: len(ids) - positions + 1 + i]`.
        """
        if positions == 1:
            return logits_of(self.forward_batch([context]))
        return self.score_batch([context], [positions])[0]

    @torch.inference_mode()
    def forward_batch(self, contexts: Sequence[Context]) -> Scored:
        """Reads what each context has gained, all of them together where the model can.

        A context's draft tokens are read too, and stay as its lookahead.

        Args:
            contexts: of this model, no two the same; with room (`has_room`).

        Returns:
            `[len(contexts), V]` logits in the model's dtype, after each context's last token, and
            what the gate kept of them where it is captured with the forward (`gate_in_graphs`).
        """
        unknown = [context for context in contexts if context.known_logits is None]
        drafts = [self.draft_prefix(context, context.draft_tokens) for context in unknown]
        if any(drafts):
            self._read_drafts(unknown, drafts)
        elif unknown:
            read = self._read(unknown, [1] * len(unknown))
            if len(read) == 1 and len(unknown) == len(contexts):
                return read[0][1]  # a copy would take as long as a decision
        rows = [context.known_logits for context in contexts]
        return torch.cat([row for row in rows if row is not None])

    @torch.inference_mode()
    def score_batch(self, contexts: Sequence[Context], positions: Sequence[int]) -> list[Tensor]:
        """As `forward_batch`, with more positions.

        Args:
            contexts: likewise.
            positions: how many of each context's last positions to score.

        Returns:
            For each context `[positions, V]` logits, as `forward` gives them.
        """
        logits = {
            index: rows
            for whole, scored in self._read(contexts, positions)
            for index, rows in zip(
                whole, logits_of(scored).split([positions[i] for i in whole]), strict=True
            )
        }
        return [logits[index] for index in range(len(contexts))]

    @torch.inference_mode()
    def draft(self, context: Context, pending: list[int], count: int) -> list[int]:
        """Its own greedy continuation, up to `count` tokens, of a context and `pending`.

        What was computed stays as the context's lookahead: if the context comes to be what was
        read, its logits are there. Nothing is drafted where it could not be rolled back.
        """
        wanted = [*pending, *[0] * count]
        if self.draft_prefix(context, wanted) != wanted:
            return []
        start, read = len(context.ids), list(pending)
        rows: list[Tensor | None] = [None] * len(pending)
        context.ids += pending
        try:
            for _ in range(count):
                logits = logits_of(self.forward_batch([context]))
                rows.append(logits.clone())
                token = int(logits.argmax())
                if token in self.end_ids or self.vocabulary.tokens[token] is None:
                    break
                read.append(token)
                context.ids.append(token)
        finally:
            del context.ids[start:]
        if context.lookahead is None:  # otherwise all of it was read before
            context.lookahead = Lookahead(start, read[: context.cached - start], rows)
        return read[len(pending) :]

    def draft_prefix(self, context: Context, tokens: list[int]) -> list[int]:
        """As many of the tokens as can be read after the context and rolled back again."""
        if not tokens:
            return tokens
        self._open(context)
        length = len(context.ids)
        bounds = [MAX_DRAFT_TOKENS]
        if self.max_length is not None:
            bounds.append(self.max_length - length)
        for cache in (context.cache, context.room):
            if cache is not None:
                bounds.append(cache.draft_room(length))
        return tokens[: max(0, min(bounds))]

    def ask(self, context: Context) -> None:
        """Nothing to wait for: its forwards run here."""

    def prefetch(self, context: Context) -> None:
        """Nothing: its forwards run here."""

    def join(self, context: Context, pool: Pool) -> bool:
        """Reserves a context's place among others; False where there is no room."""
        segment = pool.reserve(context.ids, context.expected)
        if segment is None:
            return False
        context.room = segment
        context.cache = segment if self.varlen is not None else None
        return True

    def gate_in_graphs(self, gate: Gate | None) -> None:
        """Has the logits of captured forwards read by a gate, in the same graphs.

        Of forwards that are captured from now on; None: of none.
        """
        self._graph_contents.gate = gate

    def leave(self, context: Context) -> None:
        """Gives a context's place back; it would have to read its tokens again."""
        if context.room is not None:
            context.room.pool.release(context.room)
        elif isinstance(context.cache, KVSegment):
            context.cache.pool.clear()
        context.room = context.cache = context.last_logits = context.lookahead = None

    def has_room(self, context: Context) -> bool:
        """Whether all of a context's tokens can be read, its place enlarged if need be.

        Nothing is waited for where they fit as it is, whatever is being read.
        """
        own = context.cache if isinstance(context.cache, KVSegment) else None
        segment, length = context.room or own, len(context.ids)
        if segment is None or length <= segment.capacity:
            return True
        context.expected = max(context.expected, length + length // 4)
        enlarged = segment.pool.resize(segment, context.expected)
        return enlarged or segment.pool.resize(segment, length)

    def rollback(self, context: Context, count: int) -> None:
        """Takes the last `count` tokens out of a context, read or not.

        Where the cache cannot undo them (a sliding window that has moved on), the whole context is
        read again at the next forward.
        """
        if not 0 <= count < len(context.ids):
            raise ValueError(f"cannot take {count} of {len(context.ids)} tokens out of a context")
        if context.lookahead is not None:
            context.crop(context.lookahead.start)
        del context.ids[len(context.ids) - count :]
        context.crop(len(context.ids))

    def encode_prompt(self, text: str) -> list[int]:
        """The tokens of a whole prompt; see `prompts.prompt_ids`."""
        return prompt_ids(text, self.tokenizer)

    @property
    def captures(self) -> bool:
        """Whether forwards of it are captured as CUDA graphs, unless that fails."""
        has_varlen = self.varlen is not None and self.varlen.captured is not None
        return has_varlen or self._runners is not None

    def compile_layers(self, backend: Any = "inductor") -> None:
        """Lets forwards that are captured have compiled decoder layers (`CompiledLayers`).

        Where that cannot be, which is logged, they are captured as they are.

        Args:
            backend: of torch.compile.

        Raises:
            ValueError: no forwards are captured.
        """
        if not self.captures:
            raise ValueError(f"no forwards of {self.name!r} are captured as CUDA graphs")
        if self._graph_contents.layers is not None:
            return
        try:
            self._graph_contents.layers = CompiledLayers(self.model, self.name, backend)
        except CannotCompile as reason:
            logger.warning("%s keeps its layers uncompiled: %s", self.name, reason)

    def _try_reading(self) -> None:
        """Finds out how the model reads a text in pieces."""
        self.varlen, self._state_use = self._try_first_layers(), None
        if self.varlen is not None:
            return
        trial = Trial(self.model, self._keeps_logits)
        try:
            self.varlen = VarlenForward(self.model, trial)
        except VarlenUnsupported as reason:
            logger.warning("%s reads a batch's sequences one by one: %s", self.name, reason)
            self._state_use, why = find_state_use(
                self.model, trial, self.window, self._keeps_logits
            )
            if not self._state_use.is_plain:
                self._runners = None  # they know no other way
            if why is not None:
                logger.warning("%s %s: %s", self.name, self._state_use.described, why)

    def _try_first_layers(self) -> VarlenForward | None:
        """A varlen forward that is right in the first layers; None where more must be tried."""
        first, layers = shallow(self.model) or (None, 0)
        if first is None:
            return None
        try:
            tried = VarlenForward(first, Trial(first, self._keeps_logits, layers))
            return VarlenForward(self.model, None, tried)
        except (VarlenUnsupported, NotCausal):
            return None

    def _open(self, context: Context) -> None:
        """Gives a context a cache where it has none, or has outgrown its CUDA graphs."""
        runners = None if self._captures_varlen else self._runners
        if context.cache is None and runners is not None:
            runner = runners.take(max(context.expected, len(context.ids)))
            if runner is not None:
                weakref.finalize(context, runners.give_back, runner)
                context.cache = runner
        cache = context.cache
        if cache is None or (isinstance(cache, GraphRunner) and not cache.fits(len(context.ids))):
            self._open_without_graphs(context)

    def _open_without_graphs(self, context: Context) -> None:
        if self.varlen is None:
            context.cache = TransformersCache(
                self.model, self.window, self._keeps_logits, self._state_use
            )
            return
        tokens = max(context.expected, len(context.ids))
        if self._captures_varlen:
            spare = self._spare.take(tokens)
            weakref.finalize(context, self._spare.give_back, spare)
            context.cache = spare
            return
        pool = Pool()
        weakref.finalize(context, pool.clear)  # at once: a pool and its segments form a cycle
        context.cache = pool.reserve((), tokens)

    @property
    def _captures_varlen(self) -> bool:
        """Whether sequences in pools are decoded with CUDA graphs."""
        captured = None if self.varlen is None else self.varlen.captured
        return captured is not None and not captured.refusals.is_final

    def _read(
        self, contexts: Sequence[Context], positions: Sequence[int]
    ) -> list[tuple[list[int], Scored]]:
        """For each forward, which contexts it read to their end, and the logits of all of those.

        One thread at a time: a forward takes all of a device, and transformers' models keep what
        they compute of positions.
        """
        with self._lock:
            return self._read_locked(contexts, positions)

    def _read_locked(
        self, contexts: Sequence[Context], positions: Sequence[int]
    ) -> list[tuple[list[int], Scored]]:
        read: list[tuple[list[int], Scored]] = []
        pools: dict[Pool, list[int]] = {}
        for index, (context, count) in enumerate(zip(contexts, positions, strict=True)):
            if not 1 <= count <= len(context.ids):
                raise ValueError(f"{count} positions asked for, {len(context.ids)} tokens are new")
            self._keep_agreed(context, count)
            self._open(context)
            context.forwards += 1
            scored = self._read_alone(context, count)
            if scored is not None:
                read.append(([index], scored))
                continue
            if not self.has_room(context):
                raise MemoryError(f"there is no room for {len(context.ids)} tokens in the pool")
            assert isinstance(context.cache, KVSegment)
            pools.setdefault(context.cache.pool, []).append(index)
        for pool, indices in pools.items():
            assert self.varlen is not None
            with pool.lock:
                forwards = self.varlen.read_contexts(
                    [contexts[index] for index in indices], [positions[index] for index in indices]
                )
            read += [([indices[place] for place in whole], scored) for whole, scored in forwards]
        self.forwards += len(read)
        for whole, scored in read:
            logits = logits_of(scored).split([positions[i] for i in whole])
            for index, rows in zip(whole, logits, strict=True):
                contexts[index].last_logits = rows[-1:]
        return read

    def _keep_agreed(self, context: Context, positions: int) -> None:
        """Crops what the text does not agree with, and the positions whose logits are needed."""
        end = len(context.ids) - positions
        if context.lookahead is not None:
            end = min(end, context.lookahead.agreed_end(context.ids))
        context.crop(end)

    def _read_alone(self, context: Context, positions: int) -> Scored | None:
        """A forward of one context outside a pool; None where it lies in one."""
        cache = context.cache
        if isinstance(cache, GraphRunner) and self._runners is not None:
            try:
                return cache.read(context.ids[cache.length :], positions)
            except (CannotCapture, RuntimeError) as error:
                self._runners.give_up(cache, error)
                self._open_without_graphs(context)
                return self._read_alone(context, positions)
        if isinstance(cache, TransformersCache):
            return cache.read(context.ids[cache.length :], positions)
        return None

    def _read_drafts(self, contexts: Sequence[Context], drafts: Sequence[list[int]]) -> None:
        """Reads each context's draft along with its new tokens, and keeps it as its lookahead."""
        for context, draft in zip(contexts, drafts, strict=True):
            self._keep_agreed(context, 1)
            context.ids += draft
        try:
            scored = self.score_batch(contexts, [1 + len(draft) for draft in drafts])
        finally:
            for context, draft in zip(contexts, drafts, strict=True):
                del context.ids[len(context.ids) - len(draft) :]
        for context, draft, logits in zip(contexts, drafts, scored, strict=True):
            rows = logits.split(1)
            if draft:
                context.lookahead = Lookahead(len(context.ids), draft, list(rows))


def lie_apart(one: LanguageModel, other: LanguageModel) -> bool:
    """Whether two models run on devices of which they share none, their weights kept there."""
    if is_offloaded(one.model) or is_offloaded(other.model):
        return False
    return run_devices(one.model).isdisjoint(run_devices(other.model))


def sliding_window(config: Any) -> int | None:
    """The window of a model's sliding layers; None where it has none."""
    window = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None)
    slides = types is None or any("sliding" in kind for kind in types)
    return window if slides and isinstance(window, int) else None
