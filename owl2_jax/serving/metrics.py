"""What Prometheus can read of a server."""

from __future__ import annotations

from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from owl2_jax.inference.request import Result

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


class Watched(Protocol):
    """What is shown of an engine's runner, as `owl2_jax.serving.runner.EngineRunner`."""

    running: int
    waiting: int
    sequences: int
    programs: int
    pages: int
    free_pages: int
    ready: bool


class Metrics:
    """Counters, gauges and histograms of one server, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "owl2_requests", "Requests by path and status.", ["path", "status"], registry=self._registry
        )
        self._answers = Counter(
            "owl2_answers", "Answers by how they ended.", ["finish_reason"], registry=self._registry
        )
        self._prompt_tokens = Counter(
            "owl2_prompt_tokens", "Positions of prompts, those of images included.", registry=self._registry
        )
        self._generated = Counter("owl2_generated_tokens", "Tokens of answers.", registry=self._registry)
        self._passes = Counter(
            "owl2_passes",
            "Passes through the model; over them, tokens tell how full a batch is.",
            registry=self._registry,
        )
        self._images = Counter("owl2_images", "Images read.", registry=self._registry)
        self._failures = Counter(
            "owl2_engine_failures", "Times the engine had to start again.", registry=self._registry
        )
        self._first = Histogram(
            "owl2_time_to_first_token_seconds",
            "From acceptance to the first text.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._whole = Histogram(
            "owl2_answer_seconds",
            "From acceptance to the end of an answer.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._per_token = Histogram(
            "owl2_time_per_token_seconds",
            "Between tokens after the first text.",
            buckets=_TOKEN_SECONDS,
            registry=self._registry,
        )

    def watch(self, runner: Watched) -> None:
        """Shows the state of a runner from now on."""
        for name, text, value in (
            ("owl2_running", "Requests that are being answered.", lambda: runner.running),
            ("owl2_waiting", "Requests that wait for a place in the batch.", lambda: runner.waiting),
            ("owl2_sequences", "Requests that can be answered together.", lambda: runner.sequences),
            ("owl2_programs", "Kinds of programs compiled so far.", lambda: runner.programs),
            ("owl2_cache_pages", "Pages of the key/value cache.", lambda: runner.pages),
            ("owl2_cache_pages_free", "Pages that no request uses.", lambda: runner.free_pages),
            ("owl2_ready", "1 when requests are answered without delay.", lambda: float(runner.ready)),
        ):
            Gauge(name, text, registry=self._registry).set_function(value)

    def request(self, path: str, status: int) -> None:
        """Counts a request by path and status."""
        self._requests.labels(path, str(status)).inc()

    def first_token(self, seconds: float) -> None:
        """Seconds from a request to its first token."""
        self._first.observe(seconds)

    def answer(self, result: Result, seconds: float, after_first: float) -> None:
        """Counts a finished answer, which took `seconds`, and `after_first` after its first text."""
        count = len(result.token_ids)
        self._answers.labels(result.finish_reason).inc()
        self._prompt_tokens.inc(result.prompt_tokens)
        self._generated.inc(count)
        self._whole.observe(seconds)
        if count > 1:
            self._per_token.observe(after_first / (count - 1))

    def passes(self, count: int) -> None:
        """Counts passes through the model."""
        self._passes.inc(count)

    def images(self, count: int) -> None:
        """Counts images of a request."""
        self._images.inc(count)

    def engine_failed(self) -> None:
        """Counts a failure of the engine."""
        self._failures.inc()

    def text(self) -> bytes:
        """In the text format of Prometheus."""
        return generate_latest(self._registry)
