"""A language model behind lm-eval's interface that reads every shared context once.

`SharedContextLM` gives the log-likelihoods and texts of lm-eval's own `HFLM`, with less work. What
all requests begin with (few-shot examples, say) is read once a call; a context that several
continuations follow, as the options of a question do, is read once; then each continuation reads
on from the keys and values kept so far.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from lm_eval import utils
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from ..tasks.formats import encode_pair, encode_text
from .reading import RowReader, Rows, batches, check_precision, common_prefix, inference

DEFAULT_WINDOW = 2048  # tokens; for a model whose configuration has no maximum length
SCORED_AT_ONCE = 16  # positions whose logits are turned to float32 together
DEFAULT_NEW_TOKENS = 256  # where a request does not say how many, as in lm-eval
# settings of generation that say no more than that it is greedy
GREEDY = {"do_sample": (None, False), "temperature": (None, 0), "num_beams": (None, 1)}


@dataclass(frozen=True)
class Generation:
    """How one text is generated: the strings it stops before, and the most tokens it may have."""

    until: tuple[str, ...]
    max_tokens: int

    @classmethod
    def from_kwargs(cls, kwargs: dict) -> Generation:
        """From lm-eval's generation_kwargs.

        Raises ValueError for any other setting than `until`, `max_gen_toks` and `GREEDY`.
        """
        for name, value in kwargs.items():
            if name not in ("until", "max_gen_toks") and value not in GREEDY.get(name, ()):
                raise ValueError(
                    f"generation_kwargs: {name}={value!r} is not taken, since texts are generated "
                    f"by greedy decoding, with until and max_gen_toks alone; leave {name} out of "
                    "the task's generation_kwargs"
                )
        until = kwargs.get("until") or ()
        until = (until,) if isinstance(until, str) else tuple(until)
        return cls(until, int(kwargs.get("max_gen_toks", DEFAULT_NEW_TOKENS)))

    def cut(self, text: str) -> str:
        """The text before the first stop string, or all of it."""
        return min((text.split(stop)[0] for stop in self.until), key=len, default=text)


class SharedContextLM(TemplateLM):
    """lm-eval's view of a causal transformers model, plain or wrapped by PEFT, on any device.

    Args:
        model: a causal language model with a key-value cache.
        tokenizer: its tokenizer; its own rule decides whether texts begin with a BOS token.
        batch_tokens: most tokens, with padding, that one forward pass reads (one text is never
            cut, however long).
        precision: "bf16" (autocast) or "fp32" (the type of the weights).
        window: most tokens of a window when whole texts are read (`loglikelihood_rolling`); None
            for the model's maximum, as lm-eval does.

    Raises:
        ValueError: an unknown precision, batch_tokens below 1, or a model with a recurrent state.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        batch_tokens: int = 1536,
        precision: str = "fp32",
        window: int | None = None,
    ):
        super().__init__()
        check_precision(precision)
        if batch_tokens < 1:
            raise ValueError(f"batch_tokens={batch_tokens} must be at least 1")
        self.reader = RowReader(model)
        self.model, self.tokenizer = model, tokenizer
        self.batch_tokens, self.precision = batch_tokens, precision
        longest = self.max_length or DEFAULT_WINDOW
        self.window = min(window or longest, longest)
        self._device = self.reader.device
        eos = getattr(self.reader.base.generation_config, "eos_token_id", None)
        eos = eos if isinstance(eos, list) else [eos]
        self.end_tokens = {token for token in (*eos, tokenizer.eos_token_id) if token is not None}

    # ------------------------------------------------------------------ what lm-eval asks for

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What an empty context stands for: the BOS token, or else the end-of-text token."""
        bos = self.tokenizer.bos_token_id
        return self.tokenizer.eos_token_id if bos is None else bos

    @property
    def max_length(self) -> int | None:
        """Longest text that the model takes, in tokens; None if it has no limit."""
        return self.reader.max_length

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs
    ) -> list[int]:
        """Token ids; by default with what the tokenizer puts before a text, see `encode_text`."""
        if add_special_tokens is None:
            return encode_text(self.tokenizer, string)
        return self.tokenizer.encode(string, add_special_tokens=add_special_tokens)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """lm-eval's hook: a pair is scored in the tokens that training has, see `encode_pair`."""
        return encode_pair(self.tokenizer, context, continuation)

    def encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Token ids of a context and of what follows it, cut out of both encoded together.

        This is how lm-eval cuts them for its own tasks; it has no public name for it.
        """
        return self._encode_pair(context, continuation)

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
                max_seq_len=self.window,
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
        """Greedy continuations, each cut before the first of its request's `until` strings.

        Raises ValueError for a request that asks for sampling, or whose context and new tokens
        (`max_gen_toks`) are longer than the model's maximum.
        """
        contexts = [self.tok_encode(request.args[0]) for request in requests]
        settings = [Generation.from_kwargs(request.args[1]) for request in requests]
        self._check_lengths([len(c) + s.max_tokens for c, s in zip(contexts, settings)])
        texts = [""] * len(requests)
        if not requests:
            return texts
        bar = _bar("generating", len(requests), disable_tqdm)
        with inference(self.model, self.precision), bar:
            for batch, rows, logits in self._read_contexts(contexts):
                found = self._continue_greedily(rows, logits, [settings[i] for i in batch])
                for i, text in zip(batch, found):
                    texts[i] = text
                bar.update(len(batch))
        return texts

    # ------------------------------------------------------------------ scoring and generating

    def _read_contexts(
        self, contexts: Sequence[Sequence[int]]
    ) -> Iterator[tuple[list[int], Rows, Tensor]]:
        """Read contexts in batches: their indices, their rows, the logits (rows, 1, vocabulary).

        What all contexts begin with is read once.
        """
        prefix = common_prefix(contexts)
        shared = self.reader.start(prefix)
        rests = [context[len(prefix) :] for context in contexts]
        lengths = [len(rest) for rest in rests]
        for batch in batches(lengths, self.batch_tokens, self.reader.equal_lengths):
            rows = shared.select([0] * len(batch))
            yield batch, rows, self.reader.read(rows, [rests[i] for i in batch])

    def score(
        self, pairs: Sequence[tuple[list[int], list[int]]], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Score continuations given contexts, both in token ids.

        Args:
            pairs: (context, continuation) token ids; a context has at least one token. The same
                context may stand in many pairs and is read once.
            disable_tqdm: whether to hide the progress bar.

        Returns:
            for each pair the continuation's summed log-probability in nats, from a softmax in
            float32, and whether each of its tokens is the most probable one.

        Raises:
            ValueError: an empty context, or a pair longer than the model's maximum.
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
        bar = _bar("scoring", sum(bool(text) for _, text in pairs), disable_tqdm)
        with inference(self.model, self.precision), bar:
            for batch, rows, logits in self._read_contexts(contexts):
                owners = [(n, row) for row, i in enumerate(batch) for n in followers[contexts[i]]]
                for n, score in self._score_continuations(rows, logits[:, -1], owners, pairs):
                    scores[n] = score
                    bar.update()
        return scores

    def _score_continuations(self, rows: Rows, logits: Tensor, owners, pairs):
        """Yield (number, score) of pairs. `owners`: their numbers and the rows of their contexts.

        logits (rows, vocabulary) follow each context; the last token of a text need not be read.
        """
        owners = [(n, row) for n, row in owners if pairs[n][1]]
        texts = [pairs[n][1] for n, _ in owners]
        lengths = [len(text) - 1 for text in texts]
        for batch in batches(lengths, self.batch_tokens, self.reader.equal_lengths):
            later = None
            if len(texts[batch[0]]) > 1:
                batch_rows = rows.select([owners[i][1] for i in batch])
                # a text of one token reads that token only to fill its row
                read = [texts[i][:-1] or texts[i] for i in batch]
                later = self.reader.read(batch_rows, read, all_logits=True)
            found = []
            for place, i in enumerate(batch):
                score = _score_tokens(logits[owners[i][1]][None], texts[i][:1])
                if len(texts[i]) > 1:
                    rest = texts[i][1:]
                    score = _join(score, _score_tokens(later[place, -len(rest) :], rest))
                found.append(score)
            for i, (total, greedy) in zip(batch, torch.stack(found).tolist()):
                yield owners[i][0], (total, bool(greedy))

    def _continue_greedily(
        self, rows: Rows, logits: Tensor, settings: Sequence[Generation]
    ) -> list[str]:
        """Generate for each row until its own end; finished rows leave the batch."""
        tokens: list[list[int]] = [[] for _ in settings]
        texts = [""] * len(settings)
        running = list(range(len(settings)))
        while True:
            going_on = []
            for place, token in enumerate(logits[:, -1].argmax(-1).tolist()):
                i = running[place]
                if token in self.end_tokens:
                    continue
                tokens[i].append(token)
                text = self.tokenizer.decode(tokens[i], skip_special_tokens=True)
                texts[i] = settings[i].cut(text)
                if texts[i] == text and len(tokens[i]) < settings[i].max_tokens:
                    going_on.append(place)
            running = [running[place] for place in going_on]
            if not running:
                return texts
            if len(going_on) < len(logits):
                rows = rows.select(going_on)
            logits = self.reader.read(rows, [tokens[i][-1:] for i in running])

    def _check_lengths(self, lengths: Sequence[int]) -> None:
        for number, length in enumerate(lengths):
            if self.max_length is not None and length > self.max_length:
                raise ValueError(
                    f"request {number} has {length} tokens, context and continuation together; "
                    f"the model's maximum is {self.max_length}: shorten it, or give fewer examples"
                )


def _bar(words: str, total: int, hidden: bool) -> tqdm:
    """A progress bar that is up to date also where batches take very different times."""
    return tqdm(total=total, desc=words, unit="text", disable=hidden, miniters=1)


def _score_tokens(logits: Tensor, tokens: Sequence[int]) -> Tensor:
    """Summed log-probability of tokens, logits (tokens, vocabulary), and 1.0 if all are greedy.

    Goes by `SCORED_AT_ONCE` positions: a float32 copy of all logits of a long text would take
    longer to make than the scores, at a vocabulary of 150,000.
    """
    ids = torch.tensor(tokens, device=logits.device)[:, None]
    score = torch.tensor([0.0, 1.0], dtype=torch.float64, device=logits.device)
    for some, wanted in zip(logits.split(SCORED_AT_ONCE), ids.split(SCORED_AT_ONCE)):
        some = some.float()
        chosen = some.gather(-1, wanted)[:, 0]
        total = (chosen - some.logsumexp(-1)).double().sum()
        score = _join(score, torch.stack([total, (chosen >= some.amax(-1)).all().double()]))
    return score


def _join(first: Tensor, second: Tensor) -> Tensor:
    """The score of two pieces of a text: log-probabilities add up, and both must be greedy."""
    return torch.stack([first[0] + second[0], first[1] * second[1]])
