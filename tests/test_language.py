"""Language models: rows, log-probabilities and sampling against a slow loop in float64."""

import copy
import math

import pytest
import torch

from cl_framework.errors import ConfigError
from cl_framework.language import LanguageModel
from cl_framework.rollout import Rollout, as_inputs, measured, padded, response_log_probs
from cl_framework.sampling import Sampling, pick, sample
from cl_framework.tiny_lm import TinyLM
from cl_framework.token_rows import answer_log_probs, token_rows
from cl_framework.types import Batch, Inputs, StreamInfo
from cl_framework.vocabulary import END, START, ByteVocabulary

pytest.importorskip("transformers")

INFO = StreamInfo(n_experiences=1, n_classes=1, input_shape=(8, 8), is_language=True)


def tiny(seed: int = 0, **fields: object) -> LanguageModel:
    """Random weights, large enough that no distribution is nearly uniform."""
    torch.manual_seed(seed)
    model = TinyLM(weights="random", **fields).build(INFO)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(4)
    return model.double().eval()


def rows(*pairs: tuple[str, str]) -> dict[str, torch.Tensor]:
    """Texts as stored rows."""
    def encoded(texts: tuple[str, ...]) -> torch.Tensor:
        width = max(max(len(text.encode()) for text in texts), 1)
        return torch.tensor([list(text.encode().ljust(width, b"\0")) for text in texts], dtype=torch.uint8)

    prompts, answers = zip(*pairs, strict=True)
    return {"prompt": encoded(prompts), "answer": encoded(answers)}


def slow(model: LanguageModel, context: list[int], response: list[int]) -> list[float]:
    """Log-probabilities of a response, one full pass without mask, padding or cache for each token."""
    found = []
    for place, token in enumerate(response):
        ids = torch.tensor([[*context, *response[:place]]])
        logits = model.body(input_ids=ids, use_cache=False).logits[0, -1]
        found.append(float(logits.log_softmax(0)[token].detach()))
    return found


def test_a_row_is_context_answer_and_end_token() -> None:
    model = tiny()
    x = model.preprocess(rows(("1+1", "2"), ("a longer prompt", "an answer"), ("", "a passage")))
    vocabulary = model.vocabulary
    context = vocabulary.context_ids("Answer the question.\nQ: 1+1\nA: ")
    own = x["ids"][0][x["is_token"][0]].tolist()
    assert own == [*context, ord("2"), END]
    assert x["ids"][0][x["is_answer"][0]].tolist() == [ord("2"), END]
    assert x["ids"][2][x["is_token"][2]].tolist() == [START, *b"a passage", END]
    assert x["is_answer"][2].sum() == len(b"a passage") + 1
    assert x["is_token"][:, -1].all() and x["is_answer"][:, -1].all()


def test_a_long_row_loses_the_answers_end_then_the_prompts_beginning() -> None:
    model = tiny(max_tokens=8)
    x = model.preprocess(rows(("prompt", "abc"), ("prompt", "abcdefghijkl")))
    assert x["ids"].shape == (2, 8) and x["is_token"].all()
    assert x["ids"][0].tolist()[-4:] == [*b"abc", END] and x["is_answer"][0].tolist() == [False] * 4 + [True] * 4
    assert x["ids"][1].tolist()[1:] == list(b"abcdefg")


def test_loss_is_the_mean_over_answer_tokens_of_a_slow_loop() -> None:
    model = tiny()
    raw = rows(("1+1", "2"), ("a longer prompt", "an answer"), ("", "passage"), ("empty", ""))
    x = model.preprocess(raw)
    output = model(x)
    terms = []
    for k in range(4):
        ids, is_answer = x["ids"][k][x["is_token"][k]].tolist(), x["is_answer"][k][x["is_token"][k]]
        n = int(is_answer.sum())
        terms += slow(model, ids[:-n], ids[-n:])
    loss = model.loss(Batch(raw, x, torch.zeros(4, dtype=torch.int64)), output)
    assert loss.item() == pytest.approx(-sum(terms) / len(terms), abs=1e-10)
    assert output.features.shape == (*x["ids"].shape, 128)


def test_padding_and_neighbours_change_no_log_probability() -> None:
    model = tiny()
    x = model.preprocess(rows(("1+1", "2"), ("a much longer prompt", "an answer")))
    together, is_answer = answer_log_probs(x, model(x).logits)
    for k in range(2):
        alone = {name: value[k: k + 1][:, x["is_token"][k]] for name, value in x.items()}
        expected, _ = answer_log_probs(alone, model(alone).logits)
        assert torch.allclose(together[k][is_answer[k]], expected[0], atol=1e-12)
        assert not together[k][~is_answer[k]].any()


def test_gradients_are_those_of_finite_differences() -> None:
    """Along the gradient of one layer; normalisation computes in float32 whatever the weights are."""
    model = tiny()
    x = model.preprocess(rows(("1+1", "2"), ("a longer prompt", "an answer")))
    batch = Batch(x, x, torch.zeros(2, dtype=torch.int64))
    weight = model.body.model.layers[2].self_attn.q_proj.weight
    model.loss(batch, model(x)).backward()
    direction = weight.grad / weight.grad.norm()
    values = []
    with torch.no_grad():
        for shift in (1e-2, -2e-2):
            weight += shift * direction
            values.append(model.loss(batch, model(x)).item())
    assert (values[0] - values[1]) / 2e-2 == pytest.approx(weight.grad.norm().item(), rel=1e-3)


@pytest.mark.parametrize("settings", [
    Sampling(max_new_tokens=6), Sampling(max_new_tokens=6, temperature=0.0),
    Sampling(max_new_tokens=6, temperature=0.7, top_p=0.9)], ids=["plain", "greedy", "nucleus"])
def test_sampling_is_that_of_a_slow_loop(settings: Sampling) -> None:
    """The same uniform numbers, one full pass for each token: cached and packed equals neither."""
    model = tiny()
    contexts = [model.context("Say it.", prompt) for prompt in ("1+1", "2+22", "abcdefgh")]
    found = sample(model, contexts, 3, settings, torch.Generator().manual_seed(1), version=7,
                   prompt_ids=["p", "q", "r"])
    draws = torch.rand(3, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert [len(rollouts) for rollouts in found] == [3, 3, 3]
    for i, context in enumerate(contexts):
        ids = model.vocabulary.context_ids(context)
        for k, rollout in enumerate(found[i]):
            response: list[int] = []
            while len(response) < 6 and response[-1:] != [END]:
                logits = model.body(input_ids=torch.tensor([[*ids, *response]]), use_cache=False).logits[:, -1].detach()
                response.append(int(pick(logits, draws[i, k, len(response)][None], settings)[0]))
            assert rollout.response_ids.tolist() == response
            assert rollout.sampler_log_probs.tolist() == pytest.approx(slow(model, ids, response), abs=1e-6)
            assert rollout.is_cut == (response[-1] != END)
            assert (rollout.version, rollout.prompt_id) == (7, "pqr"[i])
            assert rollout.text == model.vocabulary.answer(response)


def test_an_answer_that_ends_with_its_line_is_the_beginning_of_one_that_does_not() -> None:
    """The same draws, so that tokens and log-probabilities are the same up to the line break."""
    model = tiny()
    breaks, context = model.vocabulary.line_breaks(), model.context("Say it.", "1+1")
    with torch.no_grad():
        model.body.lm_head.weight[breaks[0]] *= 0  # a logit of 0 is likely among those of random weights
    whole, short = (sample(model, [context], 200, Sampling(max_new_tokens=8, stop=stop),
                           torch.Generator().manual_seed(1), 0)[0] for stop in ("end", "line"))
    n_broken = 0
    for ours, theirs in zip(short, whole, strict=True):
        answer = theirs.response_ids.tolist()
        broken = [place for place, token in enumerate(answer) if token in breaks]
        n = broken[0] + 1 if broken else len(answer)
        assert ours.response_ids.tolist() == answer[:n] and ours.text == theirs.text.partition("\n")[0]
        assert torch.allclose(ours.sampler_log_probs, theirs.sampler_log_probs[:n], atol=1e-6)
        assert ours.is_cut == (theirs.is_cut and not broken)
        n_broken += bool(broken)
    assert 10 < n_broken < 200
    assert all(b"\n" in b"".join([bytes([each])]) if each < START else "\n" in model.vocabulary.answer([each])
               for each in breaks) and len(breaks) > 1


def test_sampled_tokens_follow_the_distribution() -> None:
    """Frequencies of the first token of 20,000 answers, within five standard errors of softmax(z / T)."""
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0]]).expand(20_000, 4)
    draws = torch.rand(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for settings, share in ((Sampling(), torch.tensor([0.0, 1.0, -1.0, 2.0]).softmax(0)),
                            (Sampling(temperature=2.0), torch.tensor([0.0, 0.5, -0.5, 1.0]).softmax(0)),
                            (Sampling(top_p=0.8), torch.tensor([0.0, 1.0, 0.0, torch.e]) / (1 + torch.e))):
        counts = pick(logits, draws, settings)[0].bincount(minlength=4) / 20_000
        error = 5 * (share * (1 - share) / 20_000).sqrt()
        assert bool(((counts - share).abs() <= error).all()), (settings, counts, share)


def test_sampler_and_trainer_agree_on_log_probabilities() -> None:
    model = tiny()
    found = sample(model, [model.context("", "1+1"), model.context("", "abc")], 3, Sampling(), torch.Generator(), 0)
    rollouts = [rollout for group in found for rollout in group]
    trainer, is_response = response_log_probs(model, rollouts)
    assert trainer.requires_grad
    sampler = padded([rollout.sampler_log_probs for rollout in rollouts], trainer.shape[1])
    assert torch.allclose(trainer.float(), sampler, atol=1e-6)
    assert is_response.sum(1).tolist() == [len(rollout.response_ids) for rollout in rollouts]
    for rollout in measured(model, rollouts):
        assert torch.allclose(rollout.trainer_log_probs, rollout.sampler_log_probs, atol=1e-6)


def test_a_batch_of_rollouts_is_a_batch_of_rows() -> None:
    """Rollouts as `raw` pass `preprocess`, and one forward pass gives what `response_log_probs` gives."""
    model = tiny()
    rollouts = sample(model, [model.context("", "1+1")], 3, Sampling(), torch.Generator(), 0)[0]
    raw: Inputs = as_inputs(rollouts, model)
    x = model.preprocess(raw)
    assert x is raw
    assert torch.equal(answer_log_probs(x, model(x).logits)[0], response_log_probs(model, rollouts)[0])


def test_parts_and_company_change_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    contexts = [model.context("Say it.", prompt) for prompt in ("1+1", "2+22", "abcdefgh", "x")]
    whole = sample(model, contexts, 2, Sampling(), torch.Generator().manual_seed(0), 0)
    monkeypatch.setattr("cl_framework.sampling._MOST_TOKENS", 1)
    single = sample(model, contexts, 2, Sampling(), torch.Generator().manual_seed(0), 0)
    assert [[r.response_ids.tolist() for r in group] for group in whole] == \
        [[r.response_ids.tolist() for r in group] for group in single]


def test_an_empty_response_is_its_end_token() -> None:
    model = tiny()
    with torch.no_grad():
        model.body.model.embed_tokens.weight[END] = 0
        model.body.model.norm.weight.zero_()  # all logits are 0
    rollouts = sample(model, [model.context("", "1+1")], 1, Sampling(max_new_tokens=1),
                      torch.Generator().manual_seed(0), 0)[0]
    assert rollouts[0].is_cut
    empty = Rollout(rollouts[0].context_ids, torch.tensor([END]), torch.zeros(1), None, 0, "", "", False)
    log_probs, mask = response_log_probs(model, [empty])
    assert mask.tolist() == [[True]] and log_probs.item() == pytest.approx(-math.log(model.body.config.vocab_size))


def test_answers_end_where_the_end_token_comes() -> None:
    """A network whose likeliest token is the end token says nothing, and the sampler takes a single step."""
    model = tiny()
    with torch.no_grad():
        model.body.model.norm.weight.zero_()
        model.body.lm_head = torch.nn.Linear(128, model.body.config.vocab_size, dtype=torch.float64)
        model.body.lm_head.bias[END] = 100.0
    calls = []
    model.body.register_forward_hook(lambda *_: calls.append(1))
    rollouts = sample(model, [model.context("", "1+1")] * 2, 3, Sampling(), torch.Generator(), 0)
    assert all(r.response_ids.tolist() == [END] and r.text == "" and not r.is_cut for group in rollouts for r in group)
    assert len(calls) == 2  # what the contexts share, and the rest of them


def test_a_context_longer_than_the_model_is_refused() -> None:
    model = tiny(max_tokens=30)
    with pytest.raises(ConfigError, match=r"a context of 3\d tokens and an answer of up to 16 do not fit into"):
        sample(model, [model.context("", "x" * 30)], 1, Sampling(), torch.Generator(), 0)
    with pytest.raises(ConfigError, match=r"model.max_tokens=1000 is more than the 512 tokens that the network takes"):
        tiny(max_tokens=1000)


def test_sampling_changes_nothing() -> None:
    model = tiny().train()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    sample(model, [model.context("", "1+1")], 2, Sampling(), torch.Generator(), 0)
    assert model.training and torch.equal(torch.get_rng_state(), state)
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items() if isinstance(value, torch.Tensor))


def test_respond_answers_each_prompt_as_often_as_it_is_given() -> None:
    model = tiny()
    torch.manual_seed(3)
    answers = model.respond(["1+1", "abc", "1+1"])
    torch.manual_seed(3)
    contexts = [model.context(model.seed_prompt, prompt) for prompt in ("1+1", "abc")]
    found = sample(model, contexts, 2, model.sampling, torch.default_generator, 0)
    assert answers == [found[0][0].text, found[1][0].text, found[0][1].text]
    assert model.respond([]) == []


def test_a_rollout_is_plain_data_and_comes_back() -> None:
    model = tiny()
    rollout = sample(model, [model.context("", "1+1")], 1, Sampling(), torch.Generator(), 5, ["p0"])[0][0]
    again = Rollout.from_state_dict(rollout.state_dict())
    assert torch.equal(again.response_ids, rollout.response_ids)
    assert (again.version, again.prompt_id, again.text, again.is_cut) == (5, "p0", rollout.text, rollout.is_cut)


def test_rows_of_other_scenarios_are_refused() -> None:
    with pytest.raises(ConfigError, match="takes rows of a prompt and an answer"):
        tiny().preprocess(torch.zeros(2, 3, dtype=torch.uint8))
    with pytest.raises(ConfigError, match="answers prompts, and the scenario's rows are none"):
        TinyLM(weights="random").build(StreamInfo(n_experiences=1, n_classes=2, input_shape=(4,)))


def test_the_longest_piece_is_taken_and_texts_come_back() -> None:
    vocabulary = ByteVocabulary(["ab", "abc"])
    assert vocabulary.text_ids("abcab\nü") == [260, 259, 10, 0xC3, 0xBC]
    assert vocabulary.answer(vocabulary.text_ids("abcab\nü")) == "abcab\nü"
    assert vocabulary.answer([0xC3, END]) == "�"


def test_rows_without_answers_are_rows() -> None:
    x = token_rows([([1, 2], []), ([1], [3])], 0, torch.device("cpu"))
    assert x["is_answer"].tolist() == [[False, False], [False, True]]
    assert token_rows([], 0, torch.device("cpu"))["ids"].shape == (0, 1)
