"""A language model behind lm-eval's interface that reads every shared context once.

`SharedContextLM` gives the log-likelihoods and texts of lm-eval's own `HFLM`, with less work. What
all requests begin with (few-shot examples, say) is read once a call; a context that several
continuations follow, as the options of a question do, is read once; then each continuation reads
on from the keys and values kept so far. Rows are padded on the left, so that the last column of a
row is always its last token.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from lm_eval import utils
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from peft import PeftModel
from torch import Tensor, nn
from tqdm import tqdm
from transformers import Cache, DynamicCache, PreTrainedTokenizerBase

PRECISIONS = ("bf16", "fp32")
DEFAULT_WINDOW = 2048  # tokens; for a model whose configuration has no maximum length
DEFAULT_NEW_TOKENS = 256  # where a request does not say how many, as in lm-eval


@contextlib.contextmanager
def inference(model: nn.Module, precision: str) -> Iterator[None]:
    """Evaluation mode without gradients, under bfloat16 autocast if `precision` is "bf16".

    With "fp32" the model computes in the type of its weights. The weights and the model's mode are
    afterwards what they were. Raises ValueError for another precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r} is unknown; choose one of {PRECISIONS}")
    training = model.training
    model.eval()
    # Autocast keeps the bfloat16 copy of a weight from one forward pass to the next only if the
    # weight requires a gradient; without this, frozen weights are converted in every pass.
    frozen = [p for p in model.parameters() if p.is_floating_point() and not p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    device = next(model.parameters()).device.type
    try:
        with (
            torch.no_grad(),
            torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"),
        ):
            yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
        model.train(training)


@dataclass
class _Rows:
    """Token rows that the model has read: keys and values, and which columns hold real tokens."""

    cache: Cache
    mask: Tensor  # (rows, columns) int64, 1 for a real token, 0 for padding

    def select(self, rows: Sequence[int]) -> _Rows:
        """The given rows, each as often as it is named; this object stays as it is."""
        index = torch.tensor(rows, device=self.mask.device)
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in self.cache.layers]
        cache.batch_select_indices(index)  # makes new tensors
        return _Rows(cache, self.mask[index])


class SharedContextLM(TemplateLM):
    """lm-eval's view of a causal transformers model, plain or wrapped by PEFT, on any device.

    Args:
        model: a causal language model with a key-value cache.
        tokenizer: its tokenizer; its own rule decides whether texts begin with a BOS token.
        batch_tokens: most tokens, with padding, that one forward pass reads.
        precision: "bf16" (autocast) or "fp32" (the type of the weights).

    Raises:
        ValueError: an unknown precision, batch_tokens below 1, or a model that keeps a recurrent
            state, which cannot be shared like keys and values.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        batch_tokens: int = 1536,
        precision: str = "fp32",
    ):
        super().__init__()
        if precision not in PRECISIONS:
            raise ValueError(f"precision={precision!r} is unknown; choose one of {PRECISIONS}")
        if batch_tokens < 1:
            raise ValueError(f"batch_tokens={batch_tokens} must be at least 1")
        base = model.get_base_model() if isinstance(model, PeftModel) else model
        if getattr(base, "_is_stateful", False):
            raise ValueError(
                f"model={type(base).__name__} keeps a recurrent state; evaluation needs a model "
                "whose layers all have a key-value cache"
            )
        self.model, self.tokenizer = model, tokenizer
        self.batch_tokens, self.precision = batch_tokens, precision
        self.config = base.config.get_text_config()
        self._device = next(model.parameters()).device
        self._takes_positions = "position_ids" in inspect.signature(base.forward).parameters
        eos = getattr(base.generation_config, "eos_token_id", None)
        eos = eos if isinstance(eos, list) else [eos]
        self.end_tokens = {token for token in (*eos, tokenizer.eos_token_id) if token is not None}

    # ------------------------------------------------------------------ what lm-eval asks for

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What an empty context stands for: the BOS token, or else the end-of-text token."""
        bos = self.tokenizer.bos_token_id
        return self.tokenizer.eos_token_id if bos is None else bos

    @property
    def max_length(self) -> int | None:
        """Longest sequence the model takes, in tokens; None if its configuration has no limit."""
        return getattr(self.config, "max_position_embeddings", None)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs
    ) -> list[int]:
        special = self.tokenizer.bos_token
        if add_special_tokens is None:
            add_special_tokens = not (special and string.startswith(special))
        return self.tokenizer.encode(string, add_special_tokens=add_special_tokens)

    def _loglikelihood_tokens(
        self, requests: list, disable_tqdm: bool = False, **kwargs
    ) -> list[tuple[float, bool]]:
        pairs = [(context, continuation) for _, context, continuation in requests]
        return self.score(pairs, disable_tqdm)

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-probabilities of whole texts, each in windows of the model's maximum length."""
        pairs, owners = [], []
        for number, request in enumerate(requests):
            windows = utils.get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0], add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length or DEFAULT_WINDOW,
                context_len=1,
            )
            for window in windows:
                pairs.append(utils.make_disjoint_window(window))
                owners.append(number)
        totals = [0.0] * len(requests)
        for number, (log_probability, _) in zip(owners, self.score(pairs, disable_tqdm)):
            totals[number] += log_probability
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Greedy continuations, cut before the first of each request's `until` strings.

        Raises ValueError for a request that asks for sampling, or whose context and new tokens
        (`max_gen_toks`) are longer than the model's maximum.
        """
        contexts = [self.tok_encode(request.args[0]) for request in requests]
        options = [_Generation.from_kwargs(request.args[1]) for request in requests]
        self._check_lengths([len(c) + o.max_tokens for c, o in zip(contexts, options)])
        texts = [""] * len(requests)
        if not requests:
            return texts
        bar = tqdm(total=len(requests), desc="generating", unit="text", disable=disable_tqdm)
        with inference(self.model, self.precision), bar:
            prefix = _common_prefix(contexts)
            shared = self._read_shared(prefix)
            rests = [context[len(prefix) :] for context in contexts]
            order = sorted(range(len(rests)), key=lambda i: -len(rests[i]))
            for batch in _batches(order, [len(rest) for rest in rests], self.batch_tokens):
                rows = shared.select([0] * len(batch))
                logits = self._read(rows, [rests[i] for i in batch])
                found = self._continue_greedily(rows, logits, [options[i] for i in batch])
                for i, text in zip(batch, found):
                    texts[i] = text
                bar.update(len(batch))
        return texts

    # ------------------------------------------------------------------ scoring and generating

    def score(
        self, pairs: Sequence[tuple[list[int], list[int]]], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Score continuations given contexts, both in token ids.

        Args:
            pairs: (context, continuation) token ids; a context has at least one token. The same
                context may occur in many pairs and is then read once.
            disable_tqdm: whether to hide the progress bar.

        Returns:
            a pair for each: the continuation's summed log-probability in nats, from the softmax
            in float32, and whether each of its tokens is the most probable one.

        Raises:
            ValueError: a pair with an empty context, or longer than the model's maximum.
        """
        if any(not context for context, _ in pairs):
            raise ValueError("pairs holds an empty context; a context needs at least one token")
        self._check_lengths([len(context) + len(rest) - 1 for context, rest in pairs])
        followers: dict[tuple[int, ...], list[int]] = {}
        for number, (context, _) in enumerate(pairs):
            followers.setdefault(tuple(context), []).append(number)
        contexts = list(followers)
        scores: list[tuple[float, bool]] = [(0.0, True)] * len(pairs)
        if not pairs:
            return scores
        bar = tqdm(total=len(pairs), desc="scoring", unit="text", disable=disable_tqdm)
        with inference(self.model, self.precision), bar:
            prefix = _common_prefix(contexts)
            shared = self._read_shared(prefix)
            lengths = [len(context) - len(prefix) for context in contexts]
            order = sorted(range(len(contexts)), key=lambda i: -lengths[i])
            for batch in _batches(order, lengths, self.batch_tokens):
                rows = shared.select([0] * len(batch))
                logits = self._read(rows, [contexts[i][len(prefix) :] for i in batch])
                owners = {n: row for row, i in enumerate(batch) for n in followers[contexts[i]]}
                self._score_continuations(rows, logits[:, -1], owners, pairs, scores)
                bar.update(len(owners))
        return scores

    def _score_continuations(self, rows, first_logits, owners, pairs, scores) -> None:
        """Fill in `scores` of the pairs in `owners`, a pair's number -> the row of its context."""
        texts = {n: pairs[n][1] for n in owners if pairs[n][1]}
        order = sorted(texts, key=lambda n: -len(texts[n]))
        lengths = {n: len(texts[n]) - 1 for n in order}
        for batch in _batches(order, lengths, self.batch_tokens):
            first = [first_logits[owners[n]] for n in batch]
            rest = None
            if lengths[batch[0]]:
                read = [texts[n][:-1] for n in batch]
                rest = self._read(rows.select([owners[n] for n in batch]), read, all_logits=True)
            found = []
            for place, n in enumerate(batch):
                logits = first[place][None].float()
                if lengths[n]:
                    logits = torch.cat([logits, rest[place, -lengths[n] :].float()])
                target = torch.tensor(texts[n], device=logits.device)
                chosen = logits.gather(-1, target[:, None])[:, 0]
                total = (chosen - logits.logsumexp(-1)).double().sum()
                found.append(torch.stack([total, (chosen >= logits.amax(-1)).all().double()]))
            for n, (total, greedy) in zip(batch, torch.stack(found).tolist()):
                scores[n] = (total, bool(greedy))

    def _continue_greedily(self, rows: _Rows, logits: Tensor, options: list) -> list[str]:
        """Generate for each row until its own end; finished rows leave the batch."""
        tokens: list[list[int]] = [[] for _ in options]
        texts = [""] * len(options)
        running = list(range(len(options)))
        while True:
            going_on = []
            for place, token in enumerate(logits[:, -1].argmax(-1).tolist()):
                i = running[place]
                ended = token in self.end_tokens
                if not ended:
                    tokens[i].append(token)
                    text = self.tokenizer.decode(tokens[i], skip_special_tokens=True)
                    texts[i] = options[i].cut(text)
                    ended = texts[i] != text or len(tokens[i]) == options[i].max_tokens
                if not ended:
                    going_on.append(place)
            running = [running[place] for place in going_on]
            if not running:
                return texts
            rows = rows.select(going_on) if len(going_on) < len(logits) else rows
            logits = self._read(rows, [tokens[i][-1:] for i in running])

    # ------------------------------------------------------------------ reading tokens

    def _read_shared(self, tokens: Sequence[int]) -> _Rows:
        """One row that holds these tokens, or none yet."""
        rows = _Rows(DynamicCache(config=self.config), torch.zeros(1, 0, dtype=torch.int64))
        rows.mask = rows.mask.to(self.device)
        if tokens:
            self._read(rows, [tokens])
        return rows

    def _read(self, rows: _Rows, tokens: Sequence[Sequence[int]], all_logits: bool = False):
        """Let each row read on by its tokens; keys, values and mask of `rows` grow with them.

        Returns logits of shape (rows, 1, vocabulary) after the last token, or with all_logits
        (rows, longest, vocabulary), where a row's tokens are the last columns.
        """
        longest = max(len(row) for row in tokens)
        ids = torch.zeros(len(tokens), longest, dtype=torch.int64)
        real = torch.zeros_like(ids)
        for row, new in enumerate(tokens):
            ids[row, longest - len(new) :] = torch.tensor(new)
            real[row, longest - len(new) :] = 1
        rows.mask = torch.cat([rows.mask, real.to(self.device)], dim=1)
        inputs = {"input_ids": ids.to(self.device), "attention_mask": rows.mask}
        if self._takes_positions:
            inputs["position_ids"] = (rows.mask.cumsum(1) - 1).clamp_(min=0)[:, -longest:]
        keep = 0 if all_logits else 1
        output = self.model(
            **inputs, past_key_values=rows.cache, use_cache=True, logits_to_keep=keep
        )
        return output.logits

    def _check_lengths(self, lengths: Sequence[int]) -> None:
        limit = self.max_length
        longest = max(range(len(lengths)), key=lengths.__getitem__, default=None)
        if limit is not None and longest is not None and lengths[longest] > limit:
            raise ValueError(
                f"request {longest} has {lengths[longest]} tokens, context and continuation "
                f"together; the model's maximum is {limit}: shorten it or its few-shot examples"
            )


@dataclass(frozen=True)
class _Generation:
    """How one text is generated: where it stops and how many tokens it may have."""

    until: tuple[str, ...]
    max_tokens: int

    @classmethod
    def from_kwargs(cls, kwargs: dict) -> _Generation:
        """From lm-eval's generation settings; only greedy decoding is offered."""
        if kwargs.get("do_sample") or kwargs.get("temperature") or kwargs.get("num_beams", 1) > 1:
            raise ValueError(f"generation_kwargs={kwargs} ask for more than greedy decoding")
        until = kwargs.get("until") or ()
        until = (until,) if isinstance(until, str) else tuple(until)
        return cls(until, int(kwargs.get("max_gen_toks", DEFAULT_NEW_TOKENS)))

    def cut(self, text: str) -> str:
        """The text before the first stop string, or all of it."""
        return min((text.split(stop)[0] for stop in self.until), key=len, default=text)


def _common_prefix(texts: Sequence[Sequence[int]]) -> list[int]:
    """The tokens that all texts begin with, but never the whole of one: its last token is left."""
    first, last = min(texts), max(texts)
    limit = min(len(text) for text in texts) - 1
    length = 0
    while length < limit and first[length] == last[length]:
        length += 1
    return list(first[:length])


def _batches(order: Sequence[int], lengths, budget: int) -> Iterator[list[int]]:
    """Cut `order`, longest first, into batches of at most `budget` tokens with padding."""
    start = 0
    while start < len(order):
        size = max(1, budget // max(1, lengths[order[start]]))
        yield list(order[start : start + size])
        start += size
