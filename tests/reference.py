"""A slow, plain reading of docs/contract.md's loop: the oracle the real engine is compared with.

It shares no code with the package. Every step runs a full forward over the whole context (no
cache), distributions are Python dicts {symbol: probability}, and a symbol is the byte string of a
token or `END`. Greedy only.

Points where docs/contract.md is terse, as read here:

- Probabilities are the float32 softmax over the full vocabulary, padded rows included.
- `p_b` and the base's own choice range over every id, with its end ids merged into one END (score:
  logsumexp of their float32 logits). `t_g` and `p_g` range over candidates and END only.
- A candidate is a canonical, non-special token that has bytes. A guide token whose bytes the base
  cannot represent is none.
- Top-k is taken among a model's candidates and END; END is added if it fell out.
- Ties: the lower base id, then (symbols the base has no token for) the lower guide id. END stands
  at its lowest end id.
- "Begins a new word": the first character of the token's own bytes, decoded alone, is whitespace.
- With a calibration p_b, p_g and P_B(t_g) are at its temperatures, END's the sum of its ids' there,
  and so are those of the trace; t_g is the guide's choice at temperature 1. A probability has the
  logit of the nearest number in [1e-6, 1 - 1e-6].
- When END is emitted, the base's ids get the base's most probable end id, and at an intervention
  the guide's ids get the guide's.
- Base text that is still waiting for an intervention when decoding stops is not in `guide_ids`.

And of `Defer`:

- The masks range over the base's candidates and END. Special tokens, padded rows and ids with the
  bytes of another count in the softmax and nowhere else: their mass is not in m.
- P_G is the guide's softmax as it is: neither its special tokens' mass nor that of symbols the base
  cannot represent is shared out again. A distribution to draw from is P over its own sum.
- Rule "budget" takes equally likely symbols from the highest rank down.
- "Some P_G that is still possible": any masses on the symbols that the guide could emit, summing to
  at most 1; nothing that an earlier step has shown narrows them. Of rule "bet" p_g is any number
  in (0, 1], and the mask is that of the same p_g.
- Where the base's own choice is no symbol (a special token), it stands in that question at its
  P_B, as if it were a symbol that is never masked and that the guide cannot name.
- A consulted step emits a symbol of P, whatever the base's choice was, even where m turned out 0.
- While the guide's context cannot catch up, the base goes on alone, as under any policy.
"""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from tokenizers import Tokenizer

END: Final = "END"  # never equal to a symbol with bytes: those are `bytes`
Symbol = bytes | str

POLICIES = ("blend", "nudge-token", "nudge-word", "defer", "base", "guide")
DEFER_RULES = ("token", "budget", "bet")


@dataclass
class ReferenceStep:
    """What one step decided; None where a value was not computed."""

    symbol: bytes | None  # None = END, b"" = a token without bytes
    intervened: bool
    base_top_prob: float | None
    guide_top_prob: float | None
    alpha: float | None
    agreement: float | None  # P_B(t_g)
    # How far the step is from turning out differently: the smallest of
    # - best minus second-best of the distribution the symbol was taken from,
    # - |p_b - threshold| where the gate was asked,
    # - the guide's best minus second-best where t_g decides something else: the agreement in an
    #   adaptive alpha, or that a nudged word was over,
    # - how near `Defer` was to consulting or not, or to masking one symbol more or less.
    # Near-ties at the edge of a top-k are not in it.
    margin: float
    # What the models said, where they were asked, and P that an intervention emits from, over its
    # own sum; None where a model was alone.
    base: Prediction | None = field(default=None, repr=False)
    guide: Prediction | None = field(default=None, repr=False)
    scores: dict[Symbol, float] | None = field(default=None, repr=False)


@dataclass
class ReferenceResult:
    steps: list[ReferenceStep]
    base_ids: list[int]  # appended to the base's prompt; [] for policy "guide"
    guide_ids: list[int]  # appended to the guide's prompt; [] for policy "base"
    data: bytes  # y: the emitted bytes
    stop_reason: str  # "end" | "length"

    @property
    def text(self) -> str:
        return self.data.decode("utf-8", errors="replace")

    @property
    def intervention_rate(self) -> float:
        return sum(step.intervened for step in self.steps) / max(1, len(self.steps))


# -- tokens and bytes ------------------------------------------------------------------------------


def _gpt2_characters() -> dict[str, int]:
    """The printable stand-in for every byte in a byte-level vocabulary."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in plain}
    for offset, byte in enumerate(b for b in range(256) if b not in plain):
        table[chr(256 + offset)] = byte
    return table


def _components(part: Any) -> list[dict[str, Any]]:
    """The components of a tokenizer.json section, its Sequences unpacked."""
    if part is None:
        return []
    if part["type"] == "Sequence":
        inner = next(part[k] for k in ("normalizers", "pretokenizers", "decoders") if k in part)
        return [leaf for piece in inner for leaf in _components(piece)]
    return [part]


def _rejoin(parts: list[dict[str, Any]], key: str) -> dict[str, Any] | None:
    return {"type": "Sequence", key: parts} if parts else None


def _plain_text_encoder(tokenizer: Any) -> Tokenizer:
    """A copy that encodes text as a continuation: no prefix space, no special token parsed."""
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    normalizers = [p for p in _components(spec["normalizer"]) if p["type"] != "Prepend"]
    pretokenizers = _components(spec["pre_tokenizer"])
    for part in normalizers + pretokenizers:
        if part["type"] == "Metaspace":
            part["prepend_scheme"] = "never"
            part.pop("add_prefix_space", None)
        elif part["type"] == "ByteLevel" and "add_prefix_space" in part:
            part["add_prefix_space"] = False
    spec["normalizer"] = _rejoin(normalizers, "normalizers")
    spec["pre_tokenizer"] = _rejoin(pretokenizers, "pretokenizers")
    spec["post_processor"] = spec["truncation"] = spec["padding"] = None
    copy = Tokenizer.from_str(json.dumps(spec))
    copy.encode_special_tokens = True
    return copy


def _utf8_stretches(data: bytes) -> list[tuple[bool, bytes]]:
    """`data` cut into maximal stretches: (True, valid UTF-8) and (False, one invalid byte)."""
    parts: list[tuple[bool, bytes]] = []
    while data:
        try:
            data.decode("utf-8")
            parts.append((True, data))
            break
        except UnicodeDecodeError as error:
            if error.start:
                parts.append((True, data[: error.start]))
            parts += [(False, data[i : i + 1]) for i in range(error.start, error.end)]
            data = data[error.end :]
    return parts


class Vocabulary:
    """What a tokenizer's ids mean in bytes."""

    def __init__(self, tokenizer: Any, model: Any) -> None:
        self.tokenizer = tokenizer
        spec = json.loads(tokenizer.backend_tokenizer.to_str())
        decoders = _components(spec["decoder"])
        kinds = {p["type"] for p in decoders}
        kinds_before = {p["type"] for p in _components(spec["pre_tokenizer"])}
        byte_level = "ByteLevel" in kinds | kinds_before
        sentencepiece = bool(kinds & {"ByteFallback", "Metaspace", "Replace"})
        if not byte_level and not sentencepiece:
            raise ValueError(f"no bytes can be read off a tokenizer with decoder {spec['decoder']}")

        added = tokenizer.added_tokens_decoder
        special = {i for i, token in added.items() if token.special}
        self.special: set[int] = special | set(tokenizer.all_special_ids)
        self.unknown: int | None = tokenizer.unk_token_id
        characters = _gpt2_characters()
        self.bytes_of: list[bytes] = []
        self.fallback: set[int] = set()
        for i, token in enumerate(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))):
            if token is None or i in self.special:
                self.bytes_of.append(b"")
            elif byte_level:
                if i in added or any(c not in characters for c in token):
                    self.bytes_of.append(token.encode())
                else:
                    self.bytes_of.append(bytes(characters[c] for c in token))
            elif len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
                self.bytes_of.append(bytes([int(token[3:5], 16)]))
                self.fallback.add(i)
            else:
                self.bytes_of.append(token.replace("\u2581", " ").encode())
        while self.bytes_of and not self.bytes_of[-1]:
            self.bytes_of.pop()  # an id beyond the table has no bytes

        self.end_ids: list[int] = sorted(self._find_end_ids(model))
        self.canonical: dict[bytes, int] = {}  # the candidates of this model, END aside
        for ids in (
            [i for i in range(len(self.bytes_of)) if i not in self.fallback],
            sorted(self.fallback),
        ):
            for i in ids:
                if self.bytes_of[i] and i not in self.end_ids:
                    self.canonical.setdefault(self.bytes_of[i], i)
        self._encoder = _plain_text_encoder(tokenizer)

    def _find_end_ids(self, model: Any) -> set[int]:
        found: set[int] = set()
        configured = model.generation_config.eos_token_id
        if configured is not None:
            found |= {configured} if isinstance(configured, int) else set(configured)
        if self.tokenizer.eos_token_id is not None:
            found.add(self.tokenizer.eos_token_id)
        if self.tokenizer.chat_template:
            sentinel = "SENTINEL"
            messages = [
                {"role": "user", "content": "x"},
                {"role": "assistant", "content": sentinel},
            ]
            rendered = self.tokenizer.apply_chat_template(messages, tokenize=False)
            tail = rendered.partition(sentinel)[2]
            names = {self.tokenizer.convert_ids_to_tokens(i): i for i in self.special}
            for name in sorted(names, key=len, reverse=True):
                if tail.startswith(name):
                    found.add(names[name])
                    break
        return found

    def bytes_at(self, token_id: int) -> bytes:
        return self.bytes_of[token_id] if token_id < len(self.bytes_of) else b""

    def encode_prompt(self, text: str) -> list[int]:
        bos = self.tokenizer.bos_token
        already = bool(bos) and text.startswith(bos)
        return list(self.tokenizer(text, add_special_tokens=not already)["input_ids"])

    def encode(self, data: bytes, lossless: bool = False) -> list[int] | None:
        """This model's encoding of some bytes as a continuation; None if it has none.

        Text that the vocabulary cannot write goes in as the tokenizer has it (as <unk>, or not at
        all), unless nothing may be lost.
        """
        ids: list[int] = []
        for valid, part in _utf8_stretches(data):
            if valid:
                piece = self._encoder.encode(part.decode(), add_special_tokens=False).ids
                if lossless and (not piece or self.unknown in piece):
                    return None
                ids += piece
            elif part in self.canonical:
                ids.append(self.canonical[part])
            else:
                return None
        return ids

    def own_or_encoded(self, symbol: bytes, lossless: bool = False) -> list[int] | None:
        if symbol in self.canonical:
            return [self.canonical[symbol]]
        return self.encode(symbol, lossless)


# -- distributions ---------------------------------------------------------------------------------


def _best(scores: dict[Any, float], rank: dict[Any, int]) -> tuple[Any, float]:
    """The key with the highest score (ties: the lowest rank), and its lead over the next."""
    best = min(scores, key=lambda key: (-scores[key], rank[key]))
    others = (score for key, score in scores.items() if key != best)
    return best, scores[best] - max(others, default=-float("inf"))


class Prediction:
    """One model's next-token distribution after a context."""

    def __init__(self, vocabulary: Vocabulary, logits: torch.Tensor) -> None:
        logits = logits.float()
        ends = [i for i in vocabulary.end_ids if i < len(logits)]
        scores = logits.tolist()
        probs = torch.softmax(logits, dim=-1).tolist()
        self.vocabulary = vocabulary
        # Every id on its own, END's ids merged: what the model itself chooses from.
        self.by_id: dict[Hashable, float] = {
            i: p for i, p in enumerate(probs) if i not in vocabulary.end_ids
        }
        logit: dict[Hashable, float] = {i: scores[i] for i in self.by_id}
        rank: dict[Hashable, int] = {i: i for i in range(len(probs))}
        self.end_id: int | None = None
        end_prob = 0.0
        if ends:
            self.by_id[END] = end_prob = sum(probs[i] for i in ends)
            logit[END] = torch.logsumexp(logits[ends], dim=0).item()
            rank[END] = ends[0]
            self.end_id = max(ends, key=lambda i: (scores[i], -i))
        self.choice: int | str = _best(logit, rank)[0]  # an id or END
        self.choice_lead: float = _best(self.by_id, rank)[1]
        self.top_prob: float = max(self.by_id.values())
        # Symbol by symbol: the candidates of an intervention.
        self.by_symbol: dict[Symbol, float] = {
            symbol: probs[i] for symbol, i in vocabulary.canonical.items() if i < len(probs)
        }
        if ends:
            self.by_symbol[END] = end_prob
        self.logits = logits
        self.rank: dict[Symbol, int] = {s: vocabulary.canonical.get(s, -1) for s in self.by_symbol}
        if ends:
            self.rank[END] = ends[0]

    def at(self, temperature: float) -> Prediction:
        """The same model's word from softmax(logits / temperature)."""
        return Prediction(self.vocabulary, self.logits.float() / temperature)

    def top(self, k: int | None, allowed: set[Symbol]) -> dict[Symbol, float]:
        """The k most probable allowed symbols, and END in any case."""
        kept = heapq.nsmallest(
            len(self.by_symbol) if k is None else k,
            (s for s in self.by_symbol if s in allowed),
            key=lambda s: (-self.by_symbol[s], self.rank[s]),
        )
        if END in self.by_symbol and END not in kept:
            kept = [*kept, END]
        return {s: self.by_symbol[s] for s in kept}

    def best_symbol(self, allowed: set[Symbol]) -> tuple[Symbol, float, float]:
        """t, its probability and its lead, among the allowed symbols."""
        some = {s: p for s, p in self.by_symbol.items() if s in allowed}
        symbol, lead = _best(some, self.rank)
        return symbol, some[symbol], lead


def _begins_word(symbol: Symbol) -> bool:
    if isinstance(symbol, str):  # END is part of the word it ends
        return False
    return symbol.decode("utf-8", errors="replace")[:1].isspace()


# -- the loop --------------------------------------------------------------------------------------


class Reference:
    """docs/contract.md's loop over two loaded transformers models and their tokenizers."""

    def __init__(
        self, base_model: Any, base_tokenizer: Any, guide_model: Any, guide_tokenizer: Any
    ) -> None:
        self.base_model = base_model
        self.guide_model = guide_model
        self.base = Vocabulary(base_tokenizer, base_model)
        self.guide = Vocabulary(guide_tokenizer, guide_model)
        self.same_vocabulary = self.base.bytes_of == self.guide.bytes_of
        # What an intervention may emit: the base's candidates, the guide's that the base can
        # represent, and END.
        self.allowed: set[Symbol] = {END, *self.base.canonical}
        for symbol in self.guide.canonical:
            if self.base.own_or_encoded(symbol, lossless=True) is not None:
                self.allowed.add(symbol)
        self.guide_only_rank = max(map(len, (base_tokenizer, guide_tokenizer)))

    @staticmethod
    def _predict(model: Any, vocabulary: Vocabulary, context: list[int]) -> Prediction:
        ids = torch.tensor([context], device=model.device)
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits[0, -1]
        return Prediction(vocabulary, logits.cpu())

    def generate(
        self,
        base_prompt: str,
        guide_prompt: str,
        *,
        policy: str,
        threshold: float = 0.4,
        agreement_bonus: float = 0.1,
        top_k: int | None = 100,
        alpha: float | None = None,
        rule: str = "token",
        calibration: Any = None,
        max_new_tokens: int = 64,
    ) -> ReferenceResult:
        if policy not in POLICIES:
            raise ValueError(f"policy must be one of {POLICIES}, not {policy!r}")
        if rule not in DEFER_RULES:
            raise ValueError(f"rule must be one of {DEFER_RULES}, not {rule!r}")
        if policy == "base":
            prompt = self.base.encode_prompt(base_prompt)
            result = self._alone(self.base_model, self.base, prompt, max_new_tokens, False)
            return result
        if policy == "guide":
            prompt = self.guide.encode_prompt(guide_prompt)
            result = self._alone(self.guide_model, self.guide, prompt, max_new_tokens, True)
            result.base_ids, result.guide_ids = [], result.base_ids
            return result

        base_temperature = guide_temperature = 1.0
        fitted = None
        if calibration is not None:
            base_temperature = calibration.base_temperature
            guide_temperature = calibration.guide_temperature
            fitted = (
                None if calibration.a is None else (calibration.a, calibration.b, calibration.c)
            )
        base_start = self.base.encode_prompt(base_prompt)
        guide_start = self.guide.encode_prompt(guide_prompt)
        base_ids: list[int] = []
        guide_ids: list[int] = []
        waiting_ids: list[int] = []  # what the base wrote alone since the last intervention, as
        waiting = b""  #               ids (one vocabulary) and as bytes (two)
        steps: list[ReferenceStep] = []
        data = b""
        stop_reason = "length"
        in_word = False

        while len(steps) < max_new_tokens:
            edge = float("inf")  # how sure it is that the nudged word was over

            # Inside a nudged word the base is not asked.
            if in_word:
                guide = self._predict(self.guide_model, self.guide, guide_start + guide_ids)
                symbol, p_g, lead = guide.best_symbol(self.allowed)
                in_word = not _begins_word(symbol)
                if in_word:
                    step = ReferenceStep(None, True, None, p_g, None, None, lead)
                    base = None
                else:
                    edge = lead

            if not in_word:
                base = self._predict(self.base_model, self.base, base_start + base_ids)
                p_b = base.at(base_temperature).top_prob
                if policy == "defer":
                    intervenes, gate = self.defer_consults(base, threshold, rule)
                else:
                    intervenes = p_b < threshold
                    gate = min(abs(p_b - threshold), edge)

                # The guide's context catches up, if it can; otherwise the base goes on alone.
                catch_up: list[int] | None = None
                if intervenes:
                    if self.same_vocabulary:
                        catch_up = self._passed_through(waiting_ids)
                    else:
                        catch_up = self.guide.encode(waiting)

                if catch_up is None:
                    margin = min(gate, base.choice_lead)
                    steps.append(ReferenceStep(None, False, p_b, None, None, None, margin, base))
                    if base.choice == END:
                        assert base.end_id is not None
                        base_ids.append(base.end_id)
                        stop_reason = "end"
                        break
                    assert isinstance(base.choice, int)
                    emitted = self.base.bytes_at(base.choice)
                    steps[-1].symbol = emitted
                    base_ids.append(base.choice)
                    waiting_ids.append(base.choice)
                    waiting += emitted
                    data += emitted
                    continue

                guide_ids += catch_up
                waiting_ids, waiting = [], b""
                guide = self._predict(self.guide_model, self.guide, guide_start + guide_ids)
                t_g, p_g, lead = guide.best_symbol(self.allowed)
                agreement = base.at(base_temperature).by_symbol.get(t_g, 0.0)
                if policy == "blend":
                    p_g = guide.at(guide_temperature).best_symbol(self.allowed)[1]
                    weight = self._alpha(p_b, p_g, agreement, agreement_bonus, fitted)
                    matters = alpha is None and (agreement_bonus or fitted is not None)
                    symbol, used_alpha, margin, scores = self._blend(
                        base,
                        guide,
                        weight if alpha is None else alpha,
                        lead if matters else float("inf"),
                        top_k,
                    )
                    step = ReferenceStep(
                        None, True, p_b, p_g, used_alpha, agreement, min(gate, margin)
                    )
                elif policy == "defer":
                    scores, m, edge = self.defer(base, guide, threshold, rule)
                    symbol, lead = _best(scores, self._joint_rank(base, guide))
                    margin = min(gate, edge, lead)
                    step = ReferenceStep(None, True, p_b, p_g, m, agreement, margin)
                else:
                    symbol = t_g
                    step = ReferenceStep(None, True, p_b, p_g, None, agreement, min(gate, lead))
                    in_word = policy == "nudge-word"

            # An intervention, of whatever kind: the symbol enters both contexts.
            if policy.startswith("nudge"):
                scores = {s: p for s, p in guide.by_symbol.items() if s in self.allowed}
            total = sum(scores.values())
            step.base, step.guide = base, guide
            step.scores = {s: score / total for s, score in scores.items()}
            steps.append(step)
            if isinstance(symbol, str):
                if base is None:  # only to name the base's end id
                    base = self._predict(self.base_model, self.base, base_start + base_ids)
                if base.end_id is not None:
                    base_ids.append(base.end_id)
                if guide.end_id is not None:
                    guide_ids.append(guide.end_id)
                stop_reason = "end"
                break
            step.symbol = symbol
            data += symbol
            for_base = self.base.own_or_encoded(symbol)
            assert for_base is not None, "not a candidate"
            base_ids += for_base
            for_guide = self.guide.own_or_encoded(symbol)
            if for_guide is None:
                waiting += symbol
            else:
                guide_ids += for_guide

        return ReferenceResult(steps, base_ids, guide_ids, data, stop_reason)

    def _passed_through(self, ids: list[int]) -> list[int]:
        """Ids of the shared vocabulary, less padded ones that the guide has no row for."""
        rows = self.guide_model.get_input_embeddings().weight.shape[0]
        return [i for i in ids if i < rows]

    def _joint_rank(self, base: Prediction, guide: Prediction) -> dict[Symbol, int]:
        """Which of equally probable symbols wins: the base's, in its order, then the guide's."""
        only = {s: self.guide_only_rank + r for s, r in guide.rank.items() if s not in base.rank}
        return {**base.rank, **only}

    # Defer. `base` and `guide` are both models' next-token distributions.

    @staticmethod
    def _masked(base: Prediction, rule: str, bound: float) -> tuple[set[Symbol], float]:
        """The symbols with d(v) = 1, and how far the nearest one is from the other side.

        `bound` is the threshold, or p_g - threshold for rule "bet".
        """
        of = base.by_symbol
        sure = float("inf")
        if bound <= 0 and rule != "budget":
            return set(), -bound or sure
        if rule != "budget":
            edge = min((abs(p - bound) for p in of.values() if p > 1e-6), default=sure)
            return {s for s, p in of.items() if p < bound}, edge
        masked: set[Symbol] = set()
        total = last = 0.0
        for symbol in sorted(of, key=lambda s: (of[s], -base.rank[s])):
            p = of[symbol]
            if total + p > bound:
                return masked, min(total + p - bound, bound - total, p - last) if bound else sure
            masked.add(symbol)
            total, last = total + p, p
        return masked, bound - total

    def defer(
        self, base: Prediction, guide: Prediction, threshold: float, rule: str
    ) -> tuple[dict[Symbol, float], float, float]:
        """P (not normalised), m and the mask's margin."""
        p_g = guide.best_symbol(self.allowed)[1]
        bound = p_g - threshold if rule == "bet" else threshold
        masked, edge = self._masked(base, rule, bound)
        m = sum(base.by_symbol[s] for s in masked)
        scores = {s: 0.0 if s in masked else p for s, p in base.by_symbol.items()}
        for symbol, p in guide.by_symbol.items():
            if symbol in self.allowed:
                scores[symbol] = scores.get(symbol, 0.0) + m * p
        return scores, m, edge

    def defer_can_move_mass(self, base: Prediction, threshold: float, rule: str) -> bool:
        """Whether m > 0 is possible: where a sampled step consults the guide."""
        bound = 1.0 - threshold if rule == "bet" else threshold  # m is largest where p_g = 1
        masked, _ = self._masked(base, rule, bound)
        return sum(base.by_symbol[s] for s in masked) > 0

    def defer_consults(self, base: Prediction, threshold: float, rule: str) -> tuple[bool, float]:
        """Whether some P_G makes argmax P another than the base's choice, and by what margin.

        The guide's best case for a symbol t that is not the base's choice c is all of its mass on
        t, and none on c: p_g = 1. With c kept,
            P(t) = m + P_B(t) if t is kept, P(t) = m if it is masked, against P(c) = P_B(c);
        with c masked everything is masked (c is the likeliest), P = m·P_G, and any t wins.
        Of "bet", where the mask grows with p_g, a smaller p_g may keep a t that p_g = 1 masks, but
        it has no more for that: P_B(t) and what is below it are all in the m of p_g = 1.
        """
        of = base.by_symbol
        choice: Symbol | None = END  # None: the base's choice is no symbol
        if isinstance(base.choice, int):
            data = base.vocabulary.bytes_at(base.choice)
            choice = data if base.vocabulary.canonical.get(data) == base.choice else None
        own = base.by_id[base.choice]
        own_rank = base.rank[choice] if choice is not None else base.choice
        others = [s for s in self.guide.canonical if s in self.allowed and s != choice]
        if self.guide.end_ids and choice != END:
            others.append(END)

        bound = 1.0 - threshold if rule == "bet" else threshold
        masked, edge = self._masked(base, rule, bound)
        most = sum(of[s] for s in masked)  # m, of "bet" where p_g = 1
        if choice in masked:
            return bool(others) and most > 0, edge

        best = (0.0, 0)
        for symbol in others:
            kept = 0.0 if symbol in masked else of.get(symbol, 0.0)
            best = max(best, (most + kept, -base.rank.get(symbol, self.guide_only_rank)))
        consults = most > 0 and best > (own, -own_rank)
        return consults, min(edge, abs(best[0] - own))

    @staticmethod
    def _alpha(
        p_b: float,
        p_g: float,
        agreement: float,
        agreement_bonus: float,
        fitted: tuple[float, float, float] | None,
    ) -> float:
        if fitted is None:
            return min(1.0, max(0.0, p_g / (p_b + p_g) + agreement_bonus * agreement))

        def logit(p: float) -> float:
            p = min(max(p, 1e-6), 1 - 1e-6)
            return math.log(p / (1 - p))

        a, b, c = fitted
        return 1 / (1 + math.exp(-(a + b * (logit(p_g) - logit(p_b)) + c * agreement)))

    def _blend(
        self, base: Prediction, guide: Prediction, alpha: float, margin: float, top_k: int | None
    ) -> tuple[Symbol, float, float, dict[Symbol, float]]:
        """The blend's symbol, its alpha, its margin, and the blend."""
        from_base = base.top(top_k, self.allowed)
        from_guide = guide.top(top_k, self.allowed)
        rank: dict[Symbol, int] = {}
        scores: dict[Symbol, float] = {}
        for symbol in [*from_base, *(s for s in from_guide if s not in from_base)]:
            scores[symbol] = alpha * from_guide.get(symbol, 0.0)
            scores[symbol] += (1 - alpha) * from_base.get(symbol, 0.0)
            if symbol in base.rank:
                rank[symbol] = base.rank[symbol]
            else:
                rank[symbol] = self.guide_only_rank + guide.rank[symbol]
        total = sum(scores.values())
        scores = {symbol: score / total for symbol, score in scores.items()}
        symbol, lead = _best(scores, rank)
        return symbol, alpha, min(margin, lead), scores

    def _alone(
        self,
        model: Any,
        vocabulary: Vocabulary,
        prompt: list[int],
        max_new_tokens: int,
        is_guide: bool,
    ) -> ReferenceResult:
        """One model's own greedy decoding; its ids come back in `base_ids`."""
        ids: list[int] = []
        steps: list[ReferenceStep] = []
        data = b""
        stop_reason = "length"
        while len(steps) < max_new_tokens:
            own = self._predict(model, vocabulary, prompt + ids)
            p_b, p_g = (None, own.top_prob) if is_guide else (own.top_prob, None)
            ended = own.choice == END
            token_id = own.end_id if ended else own.choice
            assert isinstance(token_id, int)
            emitted = None if ended else vocabulary.bytes_at(token_id)
            steps.append(ReferenceStep(emitted, is_guide, p_b, p_g, None, None, own.choice_lead))
            steps[-1].base, steps[-1].guide = (None, own) if is_guide else (own, None)
            ids.append(token_id)
            if emitted is None:
                stop_reason = "end"
                break
            data += emitted
        return ReferenceResult(steps, ids, [], data, stop_reason)
