"""Generates for whoever asks, together: between two tokens requests join the batch and leave it (continuous batching).

One thread owns the model. Others hand requests in and get pieces of text through a function of theirs, which must not
wait.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from services.inference.replica.lm.batch import Batch
from services.inference.replica.lm.requests import Ask, Sampling, WrongRequest
from services.inference.replica.lm.text import Writer

ROWS_MAX = 16
"""Sequences at once on a CPU, where each costs a little time of every other."""
ROWS_MAX_ON_GPU = 64
CELLS_MAX, CELLS_MAX_ON_GPU = 16_384, 262_144
"""Rows times columns of the cache, which every layer holds: 0.75 GB for SmolLM2-135M in float32, and 12 GB. One row alone
may have more."""
CHARACTERS_PER_TOKEN_MAX = 32
"""A text that is longer than the context by this is not even split into tokens: others wait for that."""
WAITING_MAX = 256
PROMPT_TOKENS_AT_ONCE = 2048
"""Of the prompts that are read in one step: those who decode wait for them."""
STALLED_SECONDS = 60.0
"""A step that takes longer has hung."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Piece:
    """Text that was generated since the last piece. The last one has a reason: `stop`, `length`, or an error."""

    text: str
    finish: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str = ""


@dataclass
class _Row:
    tokens: list[int]
    sampling: Sampling
    tell: Callable[[Piece], None]
    writer: Writer
    generator: torch.Generator | None
    made: int = 0
    last: int = 0
    gone: bool = False
    """Nobody waits for it any more."""
    finish: str = field(default="")


class Engine:
    """A model and the requests under way."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._context = int(getattr(model.config, "max_position_embeddings", 0) or 1 << 30)
        self._ends = _end_tokens(model, tokenizer)
        on_gpu = model.device.type == "cuda"
        self._most = ROWS_MAX_ON_GPU if on_gpu else ROWS_MAX
        self._cells = CELLS_MAX_ON_GPU if on_gpu else CELLS_MAX
        self._batch = Batch(model)
        self._rows: list[_Row] = []
        self._waiting: deque[_Row] = deque()
        self._news = threading.Condition()
        self._began: float | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Generate a token, so that the first request finds everything warm, and then for whoever asks."""
        self._batch.join([[0]])
        self._batch.step([0])
        self._batch.keep([])
        self._thread.start()

    @property
    def well(self) -> bool:
        """Whether the model still makes steps."""
        began = self._began
        return self._thread.is_alive() and (began is None or time.monotonic() - began < STALLED_SECONDS)

    def submit(self, ask: Ask, tell: Callable[[Piece], None]) -> Callable[[], None]:
        """Begin to generate. Returns what ends it early.

        Raises:
            WrongRequest: the prompt is too long, or the queue is.
        """
        tokens = self._encode(ask)
        if len(tokens) >= self._context:
            raise WrongRequest(
                f"messages: the prompt has {len(tokens)} tokens and the model's context {self._context}: shorten it"
            )
        sampling = ask.sampling
        generator = None
        if sampling.temperature > 0:
            generator = torch.Generator()
            generator.manual_seed(sampling.seed) if sampling.seed is not None else generator.seed()
        row = _Row(tokens, sampling, tell, Writer(self._text, sampling.stop), generator)
        with self._news:
            if len(self._waiting) >= WAITING_MAX:
                raise WrongRequest(f"{WAITING_MAX} requests wait already: ask again later")
            self._waiting.append(row)
            self._news.notify()

        def cancel() -> None:
            row.gone = True

        return cancel

    def _encode(self, ask: Ask) -> list[int]:
        said = len(ask.prompt) + sum(len(each["content"]) for each in ask.messages)
        if said > CHARACTERS_PER_TOKEN_MAX * self._context:
            raise WrongRequest(
                f"messages: {said} characters are more than the context of {self._context} tokens"
            )
        if not ask.messages:
            return list(self._tokenizer(ask.prompt)["input_ids"]) or [self._ends[0] if self._ends else 0]
        if not self._tokenizer.chat_template:
            raise WrongRequest("messages: this model has no chat template: use /completions with a prompt")
        try:
            text = self._tokenizer.apply_chat_template(
                list(ask.messages), add_generation_prompt=True, tokenize=False
            )
        except Exception as error:  # noqa: BLE001 - the template is the model's, and what it raises its own
            raise WrongRequest(f"messages: the model's template refuses them: {error}") from None
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _text(self, tokens: Any) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))

    def _run(self) -> None:
        while True:
            with self._news:
                while not (self._waiting or self._rows):
                    self._began = None
                    self._news.wait()
                joining = self._next()
            self._began = time.monotonic()
            try:
                if joining:
                    logits = self._batch.join([row.tokens for row in joining])
                    self._rows += joining
                    self._choose(joining, logits)
                    self._leave()
                if self._rows:
                    self._choose(self._rows, self._batch.step([row.last for row in self._rows]))
                    self._leave()
            except Exception:  # noqa: BLE001 - whatever it was, the next requests find a model that works
                _log.exception("a step failed")
                for row in {id(each): each for each in (*self._rows, *joining)}.values():
                    row.tell(Piece("", "error", error="the model failed at this request's batch"))
                self._rows, self._batch = [], Batch(self._model)

    def _next(self) -> list[_Row]:
        """Those who may join now."""
        found: list[_Row] = []
        read = 0
        while self._waiting and len(self._rows) + len(found) < self._most:
            row = self._waiting[0]
            if found and read + len(row.tokens) > PROMPT_TOKENS_AT_ONCE:
                break
            together = [*self._rows, *found, row]
            if len(together) > 1 and len(together) * max(map(self._columns, together)) > self._cells:
                break
            self._waiting.popleft()
            if not row.gone:
                found.append(row)
                read += len(row.tokens)
        return found

    def _columns(self, row: _Row) -> int:
        """The most it may need."""
        return min(len(row.tokens) + row.sampling.max_tokens, self._context)

    def _choose(self, rows: list[_Row], logits_BV: torch.Tensor) -> None:
        likeliest = logits_BV.argmax(dim=1).tolist()
        for index, row in enumerate(rows):
            token = likeliest[index]
            if row.generator is not None:
                token = _sampled(logits_BV[index], row.sampling, row.generator)
            self._add(row, token)

    def _add(self, row: _Row, token: int) -> None:
        row.made, row.last = row.made + 1, token
        text = "" if token in self._ends else row.writer.add(token)
        if token in self._ends or row.writer.stopped:
            row.finish = "stop"
        elif row.made >= row.sampling.max_tokens or len(row.tokens) + row.made >= self._context:
            row.finish = "length"
        if row.finish:
            text += row.writer.end()
            row.tell(Piece(text, row.finish, len(row.tokens), row.made))
        elif text:
            row.tell(Piece(text))

    def _leave(self) -> None:
        kept = [index for index, row in enumerate(self._rows) if not (row.finish or row.gone)]
        if len(kept) < len(self._rows):
            self._batch.keep(kept)
            self._rows = [self._rows[index] for index in kept]


def _sampled(logits_V: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Source: Holtzman et al., The Curious Case of Neural Text Degeneration (top-p)."""
    probabilities_V = (logits_V.cpu() / sampling.temperature).softmax(0)
    if sampling.top_p < 1:
        sorted_V, order_V = probabilities_V.sort(descending=True)
        outside_V = sorted_V.cumsum(0) - sorted_V > sampling.top_p
        probabilities_V[order_V[outside_V]] = 0
    return int(torch.multinomial(probabilities_V, 1, generator=generator))


def _end_tokens(model: Any, tokenizer: Any) -> list[int]:
    said = model.generation_config.eos_token_id
    found = said if isinstance(said, list) else [said, tokenizer.eos_token_id]
    return list(dict.fromkeys(each for each in found if each is not None))
