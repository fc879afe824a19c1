"""The rows of padding that the published model attends to, as one or two keys instead of hundreds.

The published pipeline pads every prompt with rows of zeros to `text_len`, and nothing masks them. All of them are
the same row, so all have one key k and one value v. With n of them, softmax attention of a query q is

    (sum_j exp(q k_j) v_j + n exp(q k) v) / (sum_j exp(q k_j) + n exp(q k)),    n exp(q k) = exp(q k + log n),

so one key with log(n) added to its score stands for them exactly.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def collapse_padding(
    text: Tensor, lengths: Tensor | None, text_len: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """(the rows to attend to [B, L', text_dim], what to add to their scores [B, 1, 1, L']).

    text: [B, L, text_dim], L <= text_len; all-zero rows at the end of a prompt are padding, and so are the rows
    missing up to text_len. lengths: [B] int64, real rows per prompt where the caller knows them (then nothing is
    inspected). dtype: of the scores.
    """
    if lengths is None:
        occupied = (text != 0).any(dim=-1)
        positions = torch.arange(1, text.shape[1] + 1, device=text.device)
        lengths = (occupied * positions).amax(dim=1)
        text = text[:, : int(lengths.max())]
    biases = padding_biases(lengths, text.shape[1], text_len, dtype).to(text.device)
    padding = text.new_zeros(text.shape[0], biases.shape[1] - text.shape[1], text.shape[2])
    return torch.cat([text, padding], dim=1), biases[:, None, None, :]


def padding_biases(lengths: Tensor, rows: int, text_len: int, dtype: torch.dtype) -> Tensor:
    """Score biases [B, rows + pads] on the CPU: 0 for real rows, -inf for the unused ones, and for the padding keys
    the logs of numbers that add up to the count of padding rows, text_len - length.

    One padding key would do, but log(500) in bf16 is off by 1 %: a second key holds what the first one's
    rounding leaves over. Counted in float64 on the CPU, because not every device has float64.
    """
    lengths = lengths.cpu()
    count = (text_len - lengths).double()
    first = count.log().to(dtype)
    if dtype != torch.float32:
        first = torch.nextafter(first, torch.full_like(first, -math.inf))
    pads = [first.float()]
    if dtype != torch.float32:
        pads.append((count - first.double().exp()).clamp(min=0).log().to(dtype).float())
    unused = torch.arange(rows) >= lengths[:, None]
    real = torch.zeros(len(lengths), rows).masked_fill(unused, -math.inf)
    return torch.cat([real, torch.stack(pads, dim=1)], dim=1)
