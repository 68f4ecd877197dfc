"""The banded reference against a dense masked softmax, over document borders, windows and empty documents."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from speedrun.attention import attention, banded_attention


def dense_attention(q, k, v, cu_seqlens, window, scale):
    """Every pair of positions, one explicit mask: the definition."""
    position = torch.arange(q.shape[0])
    document = torch.empty_like(position)
    for number, (start, stop) in enumerate(zip(cu_seqlens[:-1].tolist(), cu_seqlens[1:].tolist(), strict=True)):
        document[start:stop] = number
    distance = position[:, None] - position[None, :]
    allowed = (distance >= 0) & (distance <= window) & (document[:, None] == document[None, :])
    scores = torch.einsum("qhd,khd->hqk", q, k) * scale
    weights = scores.masked_fill(~allowed, float("-inf")).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, v)


def offsets(lengths):
    return torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)


def random_qkv(num_tokens, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, num_tokens, 2, 8, generator=generator, dtype=torch.float64).unbind()


@settings(deadline=None, max_examples=80)
@given(
    lengths=st.lists(st.integers(0, 200), min_size=1, max_size=6).filter(sum),
    window=st.integers(0, 700),
    seed=st.integers(0, 100),
)
def test_equals_the_dense_softmax(lengths, window, seed):
    q, k, v = random_qkv(sum(lengths), seed)
    cu_seqlens = offsets(lengths)
    actual = attention(q, k, v, cu_seqlens, max(lengths), window, 0.3)
    torch.testing.assert_close(actual, dense_attention(q, k, v, cu_seqlens, window, 0.3), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("window", [3, 64, 100, 511, 512, 513, 900])
def test_block_borders_do_not_show(window):
    """One document of 1300 tokens, longer than two of the largest blocks."""
    q, k, v = random_qkv(1300)
    cu_seqlens = offsets([1300])
    actual = banded_attention(q, k, v, cu_seqlens, window, 0.1)
    torch.testing.assert_close(actual, dense_attention(q, k, v, cu_seqlens, window, 0.1), rtol=1e-11, atol=1e-12)


def test_gradients_equal_the_dense_softmax():
    cu_seqlens = offsets([37, 0, 70, 21, 0])
    gradients = []
    for compute in (
        lambda *x: attention(*x, cu_seqlens, 70, 24, 0.1),
        lambda *x: dense_attention(*x, cu_seqlens, 24, 0.1),
    ):
        inputs = [x.requires_grad_() for x in random_qkv(128)]
        compute(*inputs).square().sum().backward()
        gradients.append([x.grad for x in inputs])
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


def test_window_counts_the_keys_before_the_query():
    """Window 2 and equal scores: the mean of the last three values."""
    value = torch.arange(6.0).view(6, 1, 1)
    zeros = torch.zeros(6, 1, 1)
    y = attention(zeros, zeros, value, offsets([6]), 6, 2, 1.0)
    torch.testing.assert_close(y.flatten(), torch.tensor([0.0, 0.5, 1.0, 2.0, 3.0, 4.0]))


def test_documents_do_not_see_each_other():
    q, k, v = random_qkv(50)
    packed = attention(q, k, v, offsets([20, 30]), 30, 100, 0.3)
    alone = attention(q[20:], k[20:], v[20:], offsets([30]), 30, 100, 0.3)
    torch.testing.assert_close(packed[20:], alone, rtol=1e-12, atol=1e-13)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the flash kernel runs on a GPU only")
@pytest.mark.parametrize("window", [5, 24, 200])
def test_the_kernel_equals_the_reference(window):
    lengths = [37, 0, 70, 21, 0]
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(128, 2, 128, generator=generator).bfloat16() for _ in range(3))
    reference = dense_attention(q.double(), k.double(), v.double(), offsets(lengths), window, 0.1)
    actual = attention(q.cuda(), k.cuda(), v.cuda(), offsets(lengths).cuda(), 70, window, 0.1)
    torch.testing.assert_close(actual.cpu().double(), reference, rtol=2e-2, atol=2e-2)
