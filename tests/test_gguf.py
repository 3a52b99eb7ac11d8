"""A GGUF file becomes the network that transformers' own reader makes of it; one that is cut short says so."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch

from cl_framework.errors import ConfigError, DataError
from cl_framework.gguf_header import check_header
from cl_framework.gguf_weights import CONFIG, FRAME, TOKENIZER, WEIGHTS, Dequantised, dequantise, read_weights
from cl_framework.hugging_face import load_causal
from cl_framework.language import LanguageModel, Rows
from cl_framework.places import Folder
from cl_framework.pretrained_files import PretrainedFiles
from cl_framework.sampling import Sampling, sample
from cl_framework.vocabulary import TokenizerVocabulary

transformers = pytest.importorskip("transformers")
gguf = pytest.importorskip("gguf")
pytest.importorskip("accelerate")

WIDTH, FEED, HEADS, KEYS = 64, 96, 4, 2


def write(path: Path, n_layers: int = 2) -> Path:
    """A small Llama with byte pieces, its matrices in 4 bits."""
    writer, numbers = gguf.GGUFWriter(str(path), "llama"), torch.Generator().manual_seed(0)
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789:?.", "Ġ", "Ċ", "ab", "<|im_start|>", "<|im_end|>"]
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(FEED)
    writer.add_block_count(n_layers)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEYS)
    writer.add_rope_freq_base(5000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(letters))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(letters)
    writer.add_token_types([1] * (len(letters) - 2) + [3, 3])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(len(letters) - 2)
    writer.add_eos_token_id(len(letters) - 1)
    writer.add_pad_token_id(len(letters) - 1)
    writer.add_chat_template("{% for m in messages %}<|im_start|>{{ m['role'] }}:{{ m['content'] }}<|im_end|>"
                             "{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}")

    def add(name: str, *shape: int) -> None:
        values = torch.randn(shape, generator=numbers).numpy()
        kind = gguf.GGMLQuantizationType.F32 if len(shape) == 1 else gguf.GGMLQuantizationType.Q4_1
        writer.add_tensor(f"{name}.weight", gguf.quantize(values, kind), raw_dtype=kind)

    add("token_embd", len(letters), WIDTH)
    add("output_norm", WIDTH)
    for layer in range(n_layers):
        for name, *shape in (("attn_norm", WIDTH), ("ffn_norm", WIDTH), ("attn_q", WIDTH, WIDTH),
                             ("attn_k", WIDTH * KEYS // HEADS, WIDTH), ("attn_v", WIDTH * KEYS // HEADS, WIDTH),
                             ("attn_output", WIDTH, WIDTH), ("ffn_gate", FEED, WIDTH), ("ffn_up", FEED, WIDTH),
                             ("ffn_down", WIDTH, FEED)):
            add(f"blk.{layer}.{name}", *shape)  # type: ignore[arg-type]
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The file, and the folder that it became."""
    folder = tmp_path_factory.mktemp("made")
    path = write(tmp_path_factory.mktemp("gguf") / "small.gguf")
    dequantise(path, folder, "smollm2")
    return path, folder


def language_model(folder: Path) -> LanguageModel:
    network, vocabulary = load_causal(str(folder), "smollm2", advice="none")
    return LanguageModel(Rows(vocabulary, "be good.", 100), network, 128, Sampling(max_new_tokens=4)).eval()


def test_weights_and_answers_are_those_of_another_reader(made: tuple[Path, Path]) -> None:
    path, folder = made
    ours, _ = load_causal(str(folder), "smollm2", advice="none")
    theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name,
                                                                    dtype=torch.float32)
    expected = theirs.state_dict()
    assert set(ours.state_dict()) == set(expected)
    assert all(torch.equal(value, expected[name]) for name, value in ours.state_dict().items())
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    with torch.no_grad():
        assert torch.allclose(ours.eval()(input_ids=ids).logits, theirs.eval()(input_ids=ids).logits, atol=1e-6)
    assert ours.lm_head.weight is ours.model.embed_tokens.weight


def test_what_transformers_reads_is_there(made: tuple[Path, Path]) -> None:
    assert {path.name for path in made[1].iterdir()} >= {WEIGHTS, CONFIG, TOKENIZER, *FRAME}


def test_a_context_is_the_chat_template_and_no_text_is_markup(made: tuple[Path, Path]) -> None:
    model = language_model(made[1])
    vocabulary = model.vocabulary
    context = model.context("be good.", "is it <|im_end|> then?")
    assert context == ("<|im_start|>system:be good.<|im_end|><|im_start|>user:is it < |im_end|> then?<|im_end|>"
                       "<|im_start|>")
    assert vocabulary.context_ids(context).count(vocabulary.end) == 2
    assert vocabulary.end not in vocabulary.answer_ids("no <|im_end|> here")
    assert vocabulary.answer([*vocabulary.answer_ids("ab cd"), vocabulary.end]) == "ab cd"


def test_the_plain_frame_leaves_the_chat_template_out(made: tuple[Path, Path]) -> None:
    """Worked examples in a system prompt look as the question does, and markup is still no markup."""
    _, vocabulary = load_causal(str(made[1]), "smollm2", advice="none", frame="plain")
    context = vocabulary.context("Q: 1\nA: 2", "3 <|im_end|>")
    assert context == "Q: 1\nA: 2\nQ: 3 < |im_end|>\nA:"
    first, *others = vocabulary.context_ids(context)
    assert first == vocabulary.start and vocabulary.end not in others
    assert vocabulary.answer([*vocabulary.answer_ids("ab cd"), vocabulary.end]) == "ab cd"


def test_line_breaks_are_the_ids_that_hold_one(made: tuple[Path, Path]) -> None:
    _, vocabulary = load_causal(str(made[1]), "smollm2", advice="none")
    texts = [vocabulary.answer([each]) for each in range(len(vocabulary._tokenizer))]
    assert [each for each, text in enumerate(texts) if "\n" in text] == vocabulary.line_breaks()


def test_grouped_queries_are_sampled_as_the_trainer_reads_them(made: tuple[Path, Path]) -> None:
    from cl_framework.rollout import measured

    model = language_model(made[1])
    contexts = [model.context("be good.", prompt) for prompt in ("a?", "abcd?")]
    for group in sample(model, contexts, 3, Sampling(max_new_tokens=6), torch.Generator().manual_seed(0), 0):
        for rollout in measured(model, group):
            assert torch.allclose(rollout.trainer_log_probs, rollout.sampler_log_probs, atol=1e-4)


@pytest.mark.parametrize("n_bytes", [0, 100, 3000, -40])
def test_a_file_cut_short_is_one_clear_error(made: tuple[Path, Path], tmp_path: Path, n_bytes: int) -> None:
    short = tmp_path / "short.gguf"
    short.write_bytes(made[0].read_bytes()[:n_bytes])
    with pytest.raises(DataError, match=r"short.gguf is cut short or damaged .*; remove it and give the same command"):
        dequantise(short, tmp_path, "smollm2")
    assert not (tmp_path / WEIGHTS).exists()


def test_it_is_made_once_and_whole_or_not_at_all(made: tuple[Path, Path], tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLF_DATA", str(tmp_path))
    name = made[0].name
    source = PretrainedFiles(name="small-gguf", sha256={name: ""}, by_hand="by hand",
                             place=Folder(str(made[0].parent), (name,)))
    files = PretrainedFiles(name="small", sha256=dict.fromkeys((WEIGHTS, CONFIG, TOKENIZER, *FRAME), ""),
                            place=Dequantised(source, name, "smollm2"), by_hand="by hand")
    path = files.path(WEIGHTS)
    stamp = path.stat().st_mtime_ns
    assert files.path(WEIGHTS).stat().st_mtime_ns == stamp
    cut = PretrainedFiles(name="cut", sha256=dict.fromkeys((WEIGHTS, CONFIG), ""), by_hand="by hand",
                          place=Dequantised(source, name, "smollm2"))
    (tmp_path / "pretrained/small-gguf" / name).write_bytes(made[0].read_bytes()[:5000])
    with pytest.raises(DataError, match=r"the weights of cut cannot be had(.|\n)*is cut short or damaged"):
        cut.path(WEIGHTS)
    assert not any(entry.is_file() for entry in (tmp_path / "pretrained/cut").iterdir())


def test_a_folder_without_a_model_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no causal language model at .*; give another"):
        load_causal(str(tmp_path), "causal_lm", advice="give another")


@pytest.mark.parametrize(("at", "value", "message"), [
    (0, b"GGML", "does not begin with GGUF"),
    (4, (1).to_bytes(4, "little"), "its version is 1"),
    (8, (2**40).to_bytes(8, "little"), "items of 24 bytes or more are told"),
    (16, (2**63).to_bytes(8, "little"), "items of 13 bytes or more are told"),
    (24, (2**50).to_bytes(8, "little"), "bytes are told where"),
])
def test_a_header_that_promises_more_than_there_is_costs_nothing(tmp_path, at, value, message):
    content = bytearray(write(tmp_path / "small.gguf", 1).read_bytes())
    content[at:at + len(value)] = value
    with pytest.raises(ValueError, match=message):
        check_header(io.BytesIO(content))
    (tmp_path / "small.gguf").write_bytes(content)
    with pytest.raises(DataError, match="cut short or damaged"):
        read_weights(tmp_path / "small.gguf", "smollm2")


def test_a_list_of_more_items_than_bytes_is_refused(tmp_path):
    content = write(tmp_path / "small.gguf", 1).read_bytes()
    name = b"tokenizer.ggml.tokens"
    at = content.index(name) + len(name) + 4 + 4
    with pytest.raises(ValueError, match="items of 8 bytes or more are told"):
        check_header(io.BytesIO(content[:at] + (2**60).to_bytes(8, "little") + content[at + 8:]))
    check_header(io.BytesIO(content))


def test_lists_of_lists_end_somewhere(tmp_path):
    entry = (1).to_bytes(8, "little") + b"a" + (9).to_bytes(4, "little")
    nested = ((9).to_bytes(4, "little") + (1).to_bytes(8, "little")) * 1000
    head = b"GGUF" + (3).to_bytes(4, "little") + (0).to_bytes(8, "little") + (1).to_bytes(8, "little")
    with pytest.raises(ValueError, match="nested too deep"):
        check_header(io.BytesIO(head + entry + nested))


def test_added_tokens_are_markup_too_whether_they_have_a_role_or_not(made: tuple[Path, Path]) -> None:
    """Llama's <|start_header_id|> is special and has no role of its own; <think> is not even special."""
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(str(made[1]))
    added = ["<|start_header_id|>", "<think>"]
    tokenizer.add_tokens([transformers.AddedToken(added[0], special=True), transformers.AddedToken(added[1])])
    ids = {*tokenizer.convert_tokens_to_ids(added)}
    vocabulary = TokenizerVocabulary(tokenizer, "made")
    text = " ".join(added)
    assert not ids & {*vocabulary.context_ids(vocabulary.context(text, text))}
    assert min(ids) not in vocabulary.answer_ids(text), "what is not special may be meant in an answer"


def test_a_template_without_a_system_role_has_the_system_prompt_before_the_question(made: tuple[Path, Path]) -> None:
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(str(made[1]))
    tokenizer.chat_template = ("{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('none') }}"
                               "{% endif %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}")
    vocabulary = TokenizerVocabulary(tokenizer, "made")
    assert vocabulary.context("be good.", "1?") == "[user]be good.\n\n1?" and vocabulary.context("", "1?") == "[user]1?"
