"""Loads a causal language model of transformers with its tokenizer, from a folder or by its name.

Weights come from safetensors files alone, in float32, and no code that a repository carries is run. With CLF_OFFLINE
set in the environment nothing is downloaded.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cl_framework.errors import ConfigError, DataError
from cl_framework.extras import load_extra
from cl_framework.vocabulary import Frame, TokenizerVocabulary


def load_causal(path: str, model: str, *, advice: str, frame: Frame = "template") -> tuple[Any, TokenizerVocabulary]:
    """The network, in training mode, and its vocabulary.

    Args:
        path: a folder, or the name of a repository.
        model: who needs it, as `model=` names it.
        advice: what to do where it cannot be read; ends an error.
        frame: what stands around a prompt.

    Raises:
        ConfigError: a package is not installed, there is no such model, or its tokenizer has no end token.
        DataError: its files are damaged.
    """
    transformers = load_extra("transformers", model=model, extra="llm")
    load_extra("jinja2", model=model, extra="llm")
    transformers.utils.logging.disable_progress_bar()
    is_local = bool(os.environ.get("CLF_OFFLINE")) or Path(path).expanduser().is_dir()
    where = str(Path(path).expanduser()) if Path(path).expanduser().is_dir() else path
    options: dict[str, Any] = {"local_files_only": is_local, "trust_remote_code": False}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(where, **options)
        network = transformers.AutoModelForCausalLM.from_pretrained(where, dtype="float32", use_safetensors=True,
                                                                    **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ConfigError(f"there is no causal language model at {path} ({_first_line(error)}); {advice}") from error
    except Exception as error:
        raise DataError(f"the files of {path} are damaged ({type(error).__name__}: {_first_line(error)}); {advice}"
                        ) from error
    return network.train(), TokenizerVocabulary(tokenizer, path, is_plain=frame == "plain")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
