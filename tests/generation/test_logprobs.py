"""Log-probabilities are the model's own, of prompt and text, whatever is generated beside them and however chosen."""

import pytest
import torch

from groundup.generation.engine import Request
from groundup.generation.sampling import Sampling

GREEDY = Sampling(temperature=0)


def joined(pieces) -> tuple[list[int], list[float | None], list[list[tuple[int, float]]]]:
    """Tokens, their values and the alternatives."""
    every = [piece for piece in pieces if piece.logprobs]
    tokens = [token for piece in every for token in piece.tokens]
    return tokens, [v for p in every for v in p.logprobs.chosen], [t for p in every for t in p.logprobs.top]


@torch.no_grad()
def own(model, ids) -> torch.Tensor:
    """Log-probabilities of the tokens after the first, by one forward pass: (T - 1, V)."""
    return model(torch.tensor([ids]))[0, :-1].log_softmax(-1)


@pytest.mark.parametrize("name", ["gpt1", "gpt2", "modern", "fast"])
@pytest.mark.parametrize("neighbours", [0, 7])
def test_those_of_an_echoed_prompt_are_the_models(name, neighbours, model_of, run_engine):
    model = model_of(name)
    for n, max_tokens in ((1, 0), (1, 1), (5, 1), (15, 1), (16, 0), (16, 1)):
        request = Request(tuple(range(40, 40 + n)), max_tokens, GREEDY, logprobs=1, echo=True)
        others = [
            Request((7, 8, seed), 12, Sampling(seed=seed), logprobs=seed % 3 or None) for seed in range(neighbours)
        ]
        ((pieces,), *_) = run_engine(model, [request, *others], prefill_tokens=4)
        tokens, chosen, top = joined(pieces)
        assert (tokens[:n], chosen[0], top[0]) == (list(request.prompt), None, [])
        assert len(chosen) == len(top) == n + max_tokens
        if len(tokens) > 1:
            expected = own(model, tokens[:16])
            found = torch.tensor(chosen[1:16])
            torch.testing.assert_close(
                found, expected.gather(1, torch.tensor(tokens[1:16])[:, None])[:, 0], atol=1e-4, rtol=0
            )
            assert [best[0][0] for best in top[1:16]] == expected.argmax(1).tolist()
            assert (found <= 0).all()


@pytest.mark.parametrize("count", [0, 1, 5, 300])
@pytest.mark.parametrize(
    "sampling",
    [
        GREEDY,
        Sampling(0.5, top_k=1, seed=1),
        Sampling(2.0, top_p=0.5, logit_bias={65: -100}, presence_penalty=2, seed=2),
    ],
)
def test_those_of_text_are_before_any_filter_and_finite(sampling, count, model_of, run_engine):
    model = model_of("modern")
    request = Request((72, 105), 10, sampling, logprobs=count)
    ((pieces,),) = run_engine(model, [request])
    tokens, chosen, top = joined(pieces)
    expected = own(model, [*request.prompt, *tokens])[1:]
    torch.testing.assert_close(
        torch.tensor(chosen), expected.gather(1, torch.tensor(tokens)[:, None])[:, 0], atol=1e-4, rtol=0
    )
    for row, best in zip(expected, top, strict=True):
        assert len(best) == min(count, 257)
        assert [value for _, value in best] == sorted((value for _, value in best), reverse=True)
        torch.testing.assert_close(
            torch.tensor([value for _, value in best]), row[[token for token, _ in best]], atol=1e-4, rtol=0
        )
    assert torch.isfinite(torch.tensor(chosen)).all()


def test_the_first_alternative_of_greedy_decoding_is_the_chosen_token(model_of, run_engine):
    ((pieces,),) = run_engine(model_of(), [Request((1, 2), 30, GREEDY, logprobs=2)])
    for token, value, best in zip(*joined(pieces), strict=True):
        assert best[0] == (token, value)
