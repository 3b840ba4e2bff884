"""Servers of other engines, as their documentation and (llama.cpp) a real one say they answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from fake_server import FakeServer, _Refused
from torch import Tensor

from blendin.vocab.vocabulary import Vocabulary

Wait = Callable[[float], None]


class OtherEngine(FakeServer):
    """A server that writes greedily, for a page of its own."""

    def __init__(self, model: tuple[Any, Any], **options: Any) -> None:
        super().__init__(model, **options)
        self.vocabulary = Vocabulary(self.tokenizer, size=self.vocab_size)

    def check(self, prompt: Any) -> list[int]:
        if not prompt or not all(isinstance(id, int) for id in prompt):
            raise _Refused('"prompt" must be token ids', None)
        if len(prompt) >= self.max_model_len:
            raise _Refused(
                f"request ({len(prompt)} tokens) exceeds the available context size "
                f"({self.max_model_len} tokens), try increasing it",
                None,
                kind="exceed_context_size_error",
            )
        return list(prompt)

    def write(
        self, prompt: list[int], count: int, wait: Wait, bias: dict[int, float]
    ) -> Iterator[tuple[int, Tensor]]:
        """Tokens, each with the log-probabilities that it was chosen from but for a bias."""
        rows, cache = self._read(prompt, None)
        for _ in range(min(count, self.max_model_len - len(prompt))):
            wait(self.delay)
            row = rows[-1]
            biased = row.clone()
            for id, value in bias.items():
                biased[id] += value
            token = int(biased.argmax())
            with self.counting:
                self.generated += 1
            yield token, row
            if token in self.ends:
                return
            rows, cache = self._read([token], cache)

    def best(self, row: Tensor, count: int) -> list[tuple[int, float]]:
        top = row.topk(min(count, len(row)))
        return list(zip(top.indices.tolist(), top.values.tolist(), strict=True))


class LlamaCpp(OtherEngine):
    """A token that ends within a character has no probabilities, as there (b11549)."""

    def __init__(self, model: tuple[Any, Any], **options: Any) -> None:
        super().__init__(model, **options)
        meta = {"n_vocab": self.vocab_size, "n_ctx": self.max_model_len}
        self.card = {"owned_by": "llamacpp", "meta": meta, "root": None, "max_model_len": None}
        self.pages = {"/completion": self.completion, "/tokenize": self.tokenized}

    def tokenized(self, body: dict[str, Any], wait: Wait) -> dict[str, Any]:
        return {"tokens": self.tokenizer.encode(body["content"])}

    def completion(self, body: dict[str, Any], wait: Wait) -> dict[str, Any]:
        assert body["return_tokens"] and body["temperature"] == 0 and not body["stream"]
        bias = dict(body["logit_bias"])
        tokens, positions, data = [], [], b""
        prompt = self.check(body["prompt"])
        for token, row in self.write(prompt, body["n_predict"], wait, bias):
            tokens.append(token)
            data += self.vocabulary.tokens[token] or b""
            if _is_incomplete(data):
                continue
            top = [{"id": id, "logprob": value} for id, value in self.best(row, body["n_probs"])]
            positions.append({"id": token, "logprob": float(row[token]), "top_logprobs": top})
        answer = {"content": data.decode("utf-8", "replace"), "tokens": tokens, "stop": True}
        answer |= {"tokens_predicted": len(tokens), "truncated": False}
        return answer | ({"completion_probabilities": positions} if positions else {})


def _is_incomplete(data: bytes) -> bool:
    """Whether the last bytes begin a character and lack its end."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 != 0x80:
            needs = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
            return needs > back
    return False


class SGLang(OtherEngine):
    """Its events tell all tokens so far, or the new ones alone."""

    def __init__(self, model: tuple[Any, Any], incremental: bool = False, **options: Any) -> None:
        super().__init__(model, **options)
        self.card = {"owned_by": "sglang"}
        self.pages = {"/generate": self.generate}
        self.incremental = incremental

    def generate(self, body: dict[str, Any], wait: Wait) -> dict[str, Any] | Iterator[Any]:
        assert body["return_logprob"] and body["sampling_params"]["temperature"] == 0
        prompt = self.check(body["input_ids"])
        answers = self._answers(body, prompt, wait)
        if body.get("stream"):
            return answers
        whole = list(answers)[-1]
        if (start := body.get("logprob_start_len", -1)) >= 0:
            rows, _ = self._read(prompt, None, every=True)
            own = [(float(rows[i - 1][id]), id) for i, id in enumerate(prompt) if i > start]
            top = [
                [
                    [value, id, None]
                    for id, value in self.best(rows[i - 1], body["top_logprobs_num"])
                ]
                for i in range(start + 1, len(prompt))
            ]
            whole["meta_info"] |= {
                "input_token_logprobs": [[None, prompt[start], None], *([*o, None] for o in own)],
                "input_top_logprobs": [None, *top],
            }
        return whole

    def _answers(self, body: dict[str, Any], prompt: list[int], wait: Wait) -> Iterator[Any]:
        ids, own, top = [], [], []
        count, skip = body["sampling_params"]["max_new_tokens"], 0
        for token, row in self.write(prompt, count, wait, {}):
            ids.append(token)
            own.append([float(row[token]), token, None])
            top.append([[v, id, None] for id, v in self.best(row, body["top_logprobs_num"])])
            ends = {"type": "stop", "matched": token} if token in self.ends else None
            ends = ends or ({"type": "length", "length": count} if len(ids) == count else None)
            meta = {"finish_reason": ends, "completion_tokens": len(ids)}
            meta |= {"output_token_logprobs": own[skip:], "output_top_logprobs": top[skip:]}
            text = self.tokenizer.decode(ids[skip:])
            yield {"text": text, "output_ids": ids[skip:], "meta_info": meta}
            skip = len(ids) if self.incremental and body.get("stream") else 0
