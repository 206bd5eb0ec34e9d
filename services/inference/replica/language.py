"""Language models as Triton serves them: which model versions are one, and their configuration. Pure.

Triton's part is `text_model.py`; the weights are in a process beside it, `services.inference.replica.lm`.
"""

from collections.abc import Iterable
from enum import Enum

from services.inference.replica.repository import InvalidModel, fields, line_of
from services.inference.replica.spec import ReplicaSpec, Signature, Tensor

INPUT = Tensor("text_input", "BYTES", (1,))
GENERATION = Signature(
    (INPUT, Tensor("sampling_parameters", "BYTES", (1,))),
    (
        Tensor("text_output", "BYTES", (1,)),
        Tensor("finish_reason", "BYTES", (1,)),
        Tensor("prompt_tokens", "INT32", (1,)),
        Tensor("completion_tokens", "INT32", (1,)),
    ),
    0,
)
"""Of every model that generates text. The names of the first input, of the parameters, which are JSON, and of the first
output are those of Triton's backend for vLLM."""
EMBEDDING_NAMES = ("embedding", "tokens")
NEEDED = ("config.json", "tokenizer.json")


class Language(Enum):
    """What a language model does."""

    GENERATE = "generate"
    EMBED = "embed"


def language(paths: Iterable[str], signature: Signature) -> Language | None:
    """What a model version in Hugging Face's layout does; None for another kind of model.

    Raises:
        InvalidModel: it looks like one and cannot be served.
    """
    found = set(paths)
    if any(path.endswith(".onnx") for path in found) or "config.json" not in found:
        return None
    missing = [path for path in NEEDED if path not in found]
    if not any("/" not in path and path.endswith(".safetensors") for path in found):
        missing.append("*.safetensors")
    if missing:
        raise InvalidModel(f"a language model's directory needs {', '.join(missing)}")
    if signature == GENERATION:
        return Language.GENERATE
    if signature.inputs == (INPUT,) and tuple(each.name for each in signature.outputs) == EMBEDDING_NAMES:
        return Language.EMBED
    raise InvalidModel("the signature is not a language model's: register it with `aios model register`")


def config_text(spec: ReplicaSpec, kind: Language) -> str:
    """The model's `config.pbtxt`."""
    if spec.payload_log is not None:
        raise InvalidModel("payload_log is for models that take tensors: of language models nothing is kept")
    signature = spec.signature
    optional = {"sampling_parameters"}
    lines = [
        line_of("name", spec.deployment_id),
        'backend: "python"',
        f"max_batch_size: {signature.max_batch_size}",
        *(
            f"input {{ {fields(each)}{' optional: true' * (each.name in optional)} }}"
            for each in signature.inputs
        ),
        *(f"output {{ {fields(each)} }}" for each in signature.outputs),
        "instance_group { kind: KIND_CPU count: 1 }",
    ]
    if kind is Language.GENERATE:
        lines.append("model_transaction_policy { decoupled: true }")
    elif spec.batch_delay_micros:
        lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {spec.batch_delay_micros} }}")
    parameters = {"revision": spec.revision, "manifest_sha256": spec.manifest_sha256, "kind": kind.value}
    for key, value in parameters.items():
        lines.append(f"parameters {{ {line_of('key', key)} value {{ {line_of('string_value', value)} }} }}")
    return "\n".join(lines) + "\n"
