"""Rows that share a context are read as one: against each row by itself, in float64."""

import pytest
import torch

from cl_framework.language import LanguageModel
from cl_framework.shared_contexts import packed
from cl_framework.tiny_lm import TinyLM
from cl_framework.token_rows import answer_log_probs, token_rows
from cl_framework.types import StreamInfo

pytest.importorskip("transformers")

INFO = StreamInfo(n_experiences=1, n_classes=1, input_shape=(8, 8), is_language=True)
A, B, C = list(range(5, 25)), list(range(30, 44)), [7, 7, 9]


def tiny() -> LanguageModel:
    torch.manual_seed(0)
    model = TinyLM(weights="random").build(INFO)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(4)
    return model.double().eval()


def rows(*pairs: tuple[list[int], list[int]]) -> dict[str, torch.Tensor]:
    return token_rows(pairs, 0, torch.device("cpu"))


MIXED = ((A, [3, 4, 5]), (B, [6]), (A, [3]), (C, [5, 5, 5, 5]), (B, [9, 8, 7]), (A, [4, 4]), (A, []), (B, [6]))
"""Rows of one context apart from one another, answers of all lengths, one twice, one empty, a context met once."""


def test_log_probabilities_features_and_gradients_are_those_of_rows_by_themselves() -> None:
    model, x = tiny(), rows(*MIXED)
    n = int(x["is_answer"].any(0).sum())
    assert packed(x, n) is not None
    together, is_answer = answer_log_probs(x, (output := model(x)).logits)
    assert output.logits.shape[:2] == (8, n) and output.features.shape == (*x["ids"].shape, 128)
    (together ** 2).sum().backward()
    gradients = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    for k, (context, answer) in enumerate(MIXED):
        ids = torch.tensor([[*context, *answer]])
        found = model.body(input_ids=ids, use_cache=False, output_hidden_states=True)
        own = found.logits[0, len(context) - 1: -1].log_softmax(1).gather(1, ids[0, len(context):, None]).squeeze(1)
        assert torch.allclose(together[k][is_answer[k]], own, atol=1e-10)
        assert torch.allclose(output.features[k][x["is_token"][k]], found.hidden_states[-1][0], atol=1e-8)
        (own ** 2).sum().backward()
    for name, value in model.named_parameters():
        if value.grad is not None:
            assert (gradients[name] - value.grad).norm() <= 1e-5 * value.grad.norm(), name  # norms are float32


def test_a_column_sees_its_context_and_its_own_answer() -> None:
    x = rows(*MIXED)
    shared = packed(x, 4)
    assert shared is not None
    assert shared.ids.shape == (3, 20 + 6) and shared.row.squeeze(1).tolist() == [0, 1, 0, 2, 1, 0, 0, 1]
    assert shared.ids[0].tolist() == [*A, 3, 4, 5, 3, 4, 4]
    assert shared.positions[0].tolist() == [*range(20), 20, 21, 22, 20, 20, 21]
    assert shared.is_seen[0, 25].nonzero().squeeze(1).tolist() == [*range(20), 24, 25]
    assert shared.is_seen[1, 20].nonzero().squeeze(1).tolist() == [*range(6, 20), 20]
    assert not shared.is_seen[1, 0].any() and not shared.is_seen[1, :, 25].any()


def test_rows_that_share_nothing_or_little_stay_as_they_are() -> None:
    alone = rows((A, [1]), (B, [1]), (C, [1]))
    passages = rows(*(([1], list(range(2, 30 + k))) for k in range(6)))
    assert packed(alone, 1) is None and packed(passages, 33) is None
    long = [(list(range(100)), [k] * 256) for k in range(64)]
    assert packed(rows(*long), 256) is None, "attention over 16,484 columns costs more than the contexts"
    assert packed(rows(*((context, answer[:16]) for context, answer in long[:8])), 16) is not None


@pytest.mark.parametrize("seed", range(20))
def test_random_groups(seed: int) -> None:
    """Packed or not, whatever the lengths are."""
    draws = torch.Generator().manual_seed(seed)

    def text(low: int, high: int) -> list[int]:
        n = int(torch.randint(low, high, (1,), generator=draws))
        return torch.randint(0, 50, (n,), generator=draws).tolist()

    contexts = [text(1, 25) for _ in range(4)]
    pairs = [(contexts[int(torch.randint(4, (1,), generator=draws))], text(1, 7)) for _ in range(12)]
    model, x = tiny(), rows(*pairs)
    with torch.no_grad():
        together, is_answer = answer_log_probs(x, model(x).logits)
        for k in range(len(pairs)):
            alone = {name: value[k: k + 1][:, x["is_token"][k]] for name, value in x.items()}
            own, _ = answer_log_probs(alone, model(alone).logits)
            assert torch.allclose(together[k][is_answer[k]], own[0], atol=1e-10)
