"""What the model has done since its server started, probes among it, out of the metrics that its server gives to Prometheus. Pure.

Source: Triton's metrics.md of 24.10; Prometheus' text exposition format.
"""

import re
from collections.abc import Iterator

from services.inference.work import Work

PROMPT_TOKENS, COMPLETION_TOKENS = "aios_prompt_tokens", "aios_completion_tokens"
"""Counted by `text_model.py`, for Triton counts none."""

_SAMPLE = re.compile(r'(\w+)\{[^}]*model="([^"]*)"[^}]*\} (\S+)')


_FIELDS = {
    "nv_inference_request_success": "requests",
    "nv_inference_count": "rows",
    "nv_inference_exec_count": "batches",
    "nv_inference_queue_duration_us": "queue_micros",
    "nv_inference_compute_infer_duration_us": "compute_micros",
    PROMPT_TOKENS: "prompt_tokens",
    COMPLETION_TOKENS: "completion_tokens",
}


def work_of(text: str, model: str) -> Work:
    """The work of one model, of metrics as the server gives them. What is not a number counts as nothing."""
    return Work(**dict(_counts(text, model)))


def _counts(text: str, model: str) -> Iterator[tuple[str, int]]:
    for name, of, value in _SAMPLE.findall(text):
        if name in _FIELDS and of == model:
            try:
                yield _FIELDS[name], int(float(value))
            except (ValueError, OverflowError):
                continue
