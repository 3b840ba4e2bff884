"""Stand-ins for vLLM's two runners, written from their interfaces: a batch of tiny models' rows.

They do what makes a processor's life hard, at random: rows are added, moved, swapped and removed,
texts are read in pieces whose rows of logits mean nothing, requests are preempted, left out of a
step, resumed and aborted, and V2's proposes draft tokens.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from blendin.vllm.adapters import V1Rows, V2Rows
from blendin.vllm.arguments import validated

SWAP = SimpleNamespace(name="SWAP")
ONE_WAY = SimpleNamespace(name="UNIDIRECTIONAL")


def params(**given: Any) -> SimpleNamespace:
    """`SamplingParams`, as the engine hands them on."""
    values: dict[str, Any] = {
        "temperature": 0.0, "top_p": 1.0, "top_k": 0, "seed": None, "repetition_penalty": 1.0,
        "presence_penalty": 0.0, "frequency_penalty": 0.0, "min_p": 0.0, "n": 1, "max_tokens": 16,
        "structured_outputs": None, "bad_words": [], "allowed_token_ids": None, "ignore_eos": False,
        "all_stop_token_ids": set(), "extra_args": None, "stop": [], "min_tokens": 0,
    }  # fmt: skip
    made = SimpleNamespace(**values | given)
    validated(made)
    return made


@dataclass(eq=False)
class Request:
    """One request of the engine.

    Attributes:
        read: how many tokens of prompt and outputs lie in the engine's cache.
    """

    prompt: list[int]
    params: Any
    mask: Any = None
    outputs: list[int] = field(default_factory=list)
    read: int = 0
    finished: str | None = None

    @property
    def ids(self) -> list[int]:
        return self.prompt + self.outputs

    def take(self, token: int) -> None:
        self.outputs.append(token)
        if token in self.params.all_stop_token_ids and not self.params.ignore_eos:
            self.finished = "stop"
        elif len(self.outputs) >= self.params.max_tokens:
            self.finished = "length"


class Engine:
    """The scheduler of either runner: who runs at a step, and how much of its text is read."""

    def __init__(self, model: Any, chance: random.Random, size: int = 4, trouble: float = 0.2):
        self.model, self.chance, self.size, self.trouble = model, chance, size, trouble
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.ended: list[Request] = []
        self.preempted: set[int] = set()

    def add(self, request: Request) -> None:
        self.waiting.append(request)

    def abort(self, request: Request) -> None:
        request.finished = "abort"

    def run(self) -> None:
        while self.waiting or self.running:
            self.step()
        self.idle()

    def idle(self) -> None:
        """The step after the last request has ended."""
        raise NotImplementedError

    def step(self) -> None:
        for request in [each for each in self.running if each.finished]:
            self.running.remove(request)
            self.ended.append(request)
        if self.running and self.chance.random() < self.trouble:  # preempted
            victim = self.running.pop(self.chance.randrange(len(self.running)))
            victim.read = 0
            self.preempted.add(id(victim))
            self.waiting.insert(0, victim)
        while self.waiting and len(self.running) < self.size:
            self.running.append(self.waiting.pop(0))
        scheduled = [
            each for each in self.running if self.chance.random() >= self.trouble / 2
        ] or self.running[:1]
        counts = []
        for request in scheduled:
            left = len(request.ids) - request.read
            cut = left > 1 and self.chance.random() < 2 * self.trouble
            counts.append(self.chance.randint(1, left - 1) if cut else left)
        if scheduled:
            self.forward(scheduled, counts)
            self.preempted -= {id(each) for each in scheduled}

    def forward(self, scheduled: list[Request], counts: list[int]) -> None:
        raise NotImplementedError

    @torch.inference_mode()
    def logits(self, request: Request, drafts: list[int], end: int) -> torch.Tensor:
        """[1 + drafts, V], after the first `end` tokens and after each draft."""
        ids = request.ids[:end] + drafts
        rows = self.model(torch.tensor([ids])).logits[0, end - 1 :].clone()
        if request.mask is not None:
            for place, row in enumerate(rows):
                so_far = request.outputs + drafts[:place]
                row.masked_fill_(request.mask(so_far), -torch.inf)
        return rows


class V1Engine(Engine):
    """Rows that are added, removed and moved, and live lists of output tokens."""

    def __init__(self, requests: Any, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.rows = V1Rows(requests)
        self.batch: list[Request] = []

    def idle(self) -> None:
        left = list(range(len(self.batch)))
        self.rows.update(SimpleNamespace(removed=left, added=[], moved=[]))
        self.batch = []

    def forward(self, scheduled: list[Request], counts: list[int]) -> None:
        stayed = [
            each for each in self.batch if each in scheduled and id(each) not in self.preempted
        ]
        before = list(self.batch)
        removed = [i for i, each in enumerate(before) if each not in stayed]
        slots: list[Request | None] = [
            None if i in removed else each for i, each in enumerate(before)
        ]
        added: list[Any] = []
        moved: list[Any] = []
        free = list(removed)
        for request in scheduled:
            if request in stayed:
                continue
            index = free.pop(0) if free else len(slots)
            if index == len(slots):
                slots.append(None)
            else:
                removed.remove(index)  # the new one takes its place, and says so
            slots[index] = request
            added.append((index, request.params, request.prompt, request.outputs))
        while None in slots:  # condensed: the last one moves into the gap
            gap, last = slots.index(None), len(slots) - 1
            if slots[last] is None:
                slots.pop()
                continue
            slots[gap], slots[last] = slots[last], None
            moved.append((last, gap, ONE_WAY))
        if len(slots) > 1 and self.chance.random() < 0.5:
            one, other = self.chance.sample(range(len(slots)), 2)
            slots[one], slots[other] = slots[other], slots[one]
            moved.append((one, other, SWAP))
        self.batch = [each for each in slots if each is not None]
        update = SimpleNamespace(removed=removed, added=added, moved=moved)
        self.rows.update(update if added or removed or moved else None)
        ends = {id(each): each.read + count for each, count in zip(scheduled, counts, strict=True)}
        logits = torch.cat([self.logits(each, [], ends[id(each)]) for each in self.batch])
        self.rows.apply(logits)
        for request, row in zip(self.batch, logits, strict=True):
            request.read = ends[id(request)]
            if request.read == len(request.ids):
                request.take(int(row.argmax()))


class V2Engine(Engine):
    """Requests in slots, rows in any order, draft tokens."""

    def __init__(self, requests: Any, *args: Any, drafts: int = 2, **options: Any) -> None:
        super().__init__(*args, **options)
        slots, length = 2 * self.size, 512
        self.states = SimpleNamespace(
            all_token_ids=SimpleNamespace(gpu=torch.zeros(slots, length, dtype=torch.int32)),
            prompt_len=SimpleNamespace(np=np.zeros(slots, dtype=np.int32)),
            prefill_len=SimpleNamespace(np=np.zeros(slots, dtype=np.int32)),
        )
        self.rows, self.drafts = V2Rows(requests, self.states), drafts
        self.slots: dict[int, Request] = {}

    def idle(self) -> None:
        none = torch.zeros(0, dtype=torch.int32)
        context = SimpleNamespace(expanded_idx_mapping=none, pos=none, input_ids=none)
        self.rows.apply(torch.zeros(0, 1), context)

    def forward(self, scheduled: list[Request], counts: list[int]) -> None:
        gone = [
            slot
            for slot, each in self.slots.items()
            if each not in self.running or id(each) in self.preempted
        ]
        for slot in gone:
            del self.slots[slot]
        for request in scheduled:
            if request not in self.slots.values():
                free = [s for s in range(2 * self.size) if s not in self.slots]
                slot = self.chance.choice(free)
                self.slots[slot] = request
                ids = torch.tensor(request.ids, dtype=torch.int32)
                self.states.all_token_ids.gpu[slot, : len(ids)] = ids
                self.states.prompt_len.np[slot] = len(request.prompt)
                self.states.prefill_len.np[slot] = len(request.ids)
                self.rows.add(slot, request.params)
        slot_of = {id(each): slot for slot, each in self.slots.items()}
        batch = []
        for request, count in zip(scheduled, counts, strict=True):
            whole = request.read + count == len(request.ids)
            batch.append((request, request.read + count, self.draft(request) if whole else []))
        self.chance.shuffle(batch)
        tables: list[tuple[int, int, int]] = []
        for request, end, drafts in batch:
            fed = [request.ids[end - 1], *drafts]
            tables += [(slot_of[id(request)], end - 1 + i, token) for i, token in enumerate(fed)]
        slots, positions, fed_ids = torch.tensor(tables).unbind(dim=1)
        logits = torch.cat([self.logits(each, drafts, end) for each, end, drafts in batch])
        context = SimpleNamespace(
            expanded_idx_mapping=slots.int(), pos=positions, input_ids=fed_ids.int()
        )
        self.rows.apply(logits, context)
        sampled = logits.argmax(dim=-1).tolist()
        place = 0
        for request, end, drafts in batch:
            request.read = end
            if end == len(request.ids):
                for token, draft in zip(sampled[place:], [*drafts, None], strict=False):
                    request.take(token)
                    if token != draft or request.finished:
                        break
                    request.read += 1
            place += 1 + len(drafts)

    def draft(self, request: Request) -> list[int]:
        """What the base alone would write, wrong now and then."""
        drafts: list[int] = []
        with torch.inference_mode():
            for _ in range(self.chance.randint(0, self.drafts)):
                ids = torch.tensor([request.ids + drafts])
                token = int(self.model(ids).logits[0, -1].argmax())
                if self.chance.random() < 0.2:
                    token = self.chance.randrange(len(self.model.lm_head.weight))
                drafts.append(token)
        return drafts
