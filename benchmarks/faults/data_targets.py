"""Files of data sets and of weights, and what reads them."""

from __future__ import annotations

import gzip
import io
import json
import pickle
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as save_safetensors
from target import ROWS, Target, idx, packed, picture, tar, zipped_up

from cl_framework.checkpoint import Vault, _digest


def data_targets(home: Path) -> list[Target]:
    """Files of data sets."""
    readers, folders, corpora, cifar_c, custom = (import_module(f"cl_framework.scenarios.{name}") for name in (
        "_readers", "_folders", "_corpora", "_cifar_c", "custom"))
    cifar = partial(readers.read_cifar, archive="c.tar.gz", inner="c", train=("b",), test=("b",), labels="labels",
                    md5={})
    batches = [pickle.dumps({b"data": ROWS, b"labels": [0, 1, 2, 3], b"filenames": ["a"] * 4}, protocol=protocol)
               for protocol in (2, 3, 4, 5)]
    npz = [packed(lambda file, save=save: save(file, x=ROWS[:, :16], y=np.arange(4) % 2))
           for save in (np.savez, np.savez_compressed)]
    npz.append(packed(lambda file: np.savez(file, x=ROWS[:, :16] / 255, y=np.array(["a", "b"] * 2))))
    pictures = [picture(style) for style in ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")]
    pictures += [picture("PNG", mode) for mode in ("L", "P", "1", "LA", "RGBA", "I;16")]
    array = packed(lambda file: np.save(file, ROWS.reshape(4, 32, 32, 3)[[0, 1, 2, 3, 0]]))
    labels = packed(lambda file: np.save(file, np.zeros(5, np.int64)))
    zipped = {f"t/{name}": content for name, content in {
        "wnids.txt": b"n1\n", "val/val_annotations.txt": b"v.png\tn1\t0\t0\t1\t1\n", "val/images/v.png": pictures[0],
        "train/n1/images/a.png": pictures[0]}.items()}
    digits = "\n".join(",".join(["1"] * 64 + [str(row % 2)]) for row in range(10)).encode()
    table = b"Category\tText\nd\ts\nclass\tmeta\n" + b"a\tsome words\nb\tother words\n" * 3
    (home / "npy" / "in").mkdir(parents=True)
    (home / "npy" / "in" / "labels.npy").write_bytes(labels)

    def published(path: Path) -> object:
        place = cifar_c.CifarC(folder=path.parent.parent if path.parent.name == "in" else path.parent, inner="in",
                               archive="a.tar", md5="")
        return place.images("fog", 5, 1).sum(), place.labels()

    return [
        Target(name="idx", file="a", samples=[idx(ROWS[:, :9].reshape(4, 3, 3)), idx(ROWS[0])],
               read=readers.read_idx),
        Target(name="idx_packed", file="a.gz", samples=[gzip.compress(idx(ROWS))],
               read=lambda path: readers.read_idx(path.with_suffix(""))),
        Target(name="digits", file="digits.csv.gz", samples=[gzip.compress(digits)],
               read=lambda path: readers.read_digits(path.parent)),
        Target(name="digits_text", file="digits.csv", samples=[digits], read=lambda path: _repacked(
            path, "digits.csv.gz", readers.read_digits)),
        Target(name="cifar_batch", file="c/b", samples=batches, read=lambda path: cifar(path.parent.parent)),
        Target(name="cifar_archive", file="c.tar.gz", samples=[tar({"c/b": each}, "w:gz") for each in batches[:2]],
               read=lambda path: cifar(path.parent)),
        Target(name="npz", file="a.npz", samples=npz, read=lambda path: custom.Custom(path=str(path)).read()),
        Target(name="npy", file="in/fog.npy", samples=[array], read=published),
        Target(name="cifar_c", file="a.tar", samples=[tar({"in/fog.npy": array, "in/labels.npy": labels}, "w")],
               read=published),
        Target(name="tiny_imagenet", file="t.zip", samples=[zipped_up(zipped)],
               read=lambda path: folders.read_tiny_imagenet(path.parent, archive="t.zip", inner="t", md5={})),
        Target(name="picture", file="a", samples=pictures, read=lambda path: folders.decode(path.read_bytes(), "a")),
        Target(name="table", file="t-train.tab", samples=[table],
               read=lambda path: corpora._read_table(path, ("a", "b"))),
    ]


def _repacked(path: Path, name: str, read: Callable[[Path], object]) -> object:
    """Spoiled inside its packing."""
    path.with_name(name).write_bytes(gzip.compress(path.read_bytes(), 1))
    return read(path.parent)


def weight_targets(home: Path) -> list[Target]:
    """Weights, caches of data sets, checkpoints."""
    from cl_framework.protocol import run_stream
    from cl_framework.sources import Source, _digests
    from cl_framework.strategy import Strategy
    from cl_framework.tensor_files import TensorFiles
    from cl_framework.toys import Toy, toy_model, toy_recipe
    from cl_framework.weight_files import digest_of, put_weights, read_weights

    stream = Toy().open()
    model = toy_model(stream)
    model.observe((0, 1))
    weights = {name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    as_torch = [packed(lambda file, value=value: torch.save(value, file)) for value in (
        weights, {"model": weights}, {"state_dict": {f"module.{name}": value for name, value in weights.items()}})]

    run_stream(Strategy(), stream, toy_model(stream), recipe=toy_recipe(epochs=1), vault=Vault(home / "first", "me"))
    checkpoints = [path.read_bytes() for path in Vault(home / "first", "me").files()]
    arrays = {f"{part}_{axis}": rows for part in ("train", "test")
              for axis, rows in (("x", ROWS + 1), ("y", np.arange(4)))}
    cache = save_safetensors({name: torch.from_numpy(array) for name, array in arrays.items()},
                             {"sha256": json.dumps(_digests(arrays))})
    source = Source(name="toy", description="", read=lambda _: {}, files=("none",), places=(), n_classes=4)

    def read(path: Path) -> object:
        digest_of(path)
        fresh = toy_model(stream)
        fresh.observe((0, 1))
        return put_weights(fresh, read_weights(path), str(path))

    def resumed(path: Path) -> object:
        return run_stream(Strategy(), stream, toy_model(stream), recipe=toy_recipe(epochs=1),
                          vault=Vault(path.parent, "me"))

    def name_of(content: bytes) -> str:
        return f"00003-0000000099-{_digest(content)}.pt"

    def states(content: bytes) -> Any:
        return torch.load(io.BytesIO(content), weights_only=True)

    return [
        Target(name="gguf", file="w.gguf", samples=[_gguf(home / "sample.gguf")],
               read=lambda path: import_module("cl_framework.gguf_weights").read_weights(path, "smollm2")),
        Target(name="weights_torch", file="w.pt", samples=as_torch, read=read),
        Target(name="weights_safetensors", file="w.safetensors", samples=[save_safetensors(weights)], read=read),
        Target(name="tensor_files", file="w.safetensors", samples=[save_safetensors(weights, {"a": "b"})],
               read=lambda path: {name: value.sum() for name, value in TensorFiles(path).items()}),
        Target(name="cache", file="toy.safetensors", samples=[cache], read=lambda _: source.load()),
        Target(name="checkpoint", file="x", samples=checkpoints, read=resumed, renamed=name_of, tree=(
            states, lambda state: packed(lambda file: torch.save(state, file)))),
    ]


def _gguf(path: Path) -> bytes:
    """A Llama of one layer, in blocks of 4 bits."""
    gguf = import_module("gguf")
    writer = gguf.GGUFWriter(str(path), "llama")
    for fact, value in {"context_length": 16, "embedding_length": 32, "feed_forward_length": 32, "block_count": 1,
                        "head_count": 2, "head_count_kv": 1, "rope_freq_base": 1e4, "layer_norm_rms_eps": 1e-5,
                        "vocab_size": 4, "eos_token_id": 3}.items():
        getattr(writer, f"add_{fact}")(value)
    writer.add_token_list(["a", "b", "c", "d"])
    rows = {"token_embd": 4, "output_norm": 0, "blk.0.attn_q": 32, "blk.0.attn_k": 16, "blk.0.ffn_norm": 0}
    for name, n in rows.items():
        kind = gguf.GGMLQuantizationType.Q4_1 if n else gguf.GGMLQuantizationType.F32
        values = np.linspace(-1, 1, 32 * max(n, 1), dtype=np.float32).reshape((n, 32) if n else 32)
        writer.add_tensor(f"{name}.weight", gguf.quantize(values, kind), raw_dtype=kind)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file,
                  writer.close):
        write()
    return path.read_bytes()
