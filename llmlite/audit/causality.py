"""Does a language model see what it is to predict? A test of the causal mask, from outside: all
tokens from some position on are changed, and in a causal model no logit before it may move."""

import torch

from llmlite.files import LLMLiteError

LOGITS = 1 << 26  # numbers in the logits of one pass, 256 MiB in float32

# A change below this share of the largest one that is allowed is rounding: 8 steps of float32.
ROUNDING = 1e-6
NOISE = 10  # and so is one below so many times what moves where no token of the text was changed


@torch.inference_mode()
def causal_leak(model, seed: int = 0) -> bool:
    """Whether any logit depends on a token after its position, on a random text of block_size.

    model: like GPT, gives `.logits` (batch, time, vocab_size) for ids (batch, time). Takes as much
    work as reading block_size² tokens. Raises LLMLiteError if the logits are not finite, or move by
    themselves too much to tell.
    """
    if model.config.block_size == 1 or model.config.vocab_size == 1:
        return False  # no token stands after another, or none can be another
    training = model.training
    try:
        model.eval()
        later, allowed, noise = _largest_changes(model, seed)
    finally:
        model.train(training)
    if noise * NOISE > allowed:
        raise LLMLiteError(
            f"The model's logits differ by up to {noise:.2g} from one pass to the next over the "
            f"same text, and by {allowed:.2g} over another; turn off what is random in it."
        )
    return later > max(noise * NOISE, allowed * ROUNDING)


def _largest_changes(model, seed: int) -> tuple[float, float, float]:
    """By how much logits move: before the changed tokens, from them on, and without any change."""
    tokens, vocab_size = model.config.block_size, model.config.vocab_size
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(vocab_size, (tokens,), generator=generator)
    # Another token at every position, not just most likely another one.
    other = (text + torch.randint(1, vocab_size, (tokens,), generator=generator)) % vocab_size
    # Every pass has one shape and sums in one order: in a causal model equal beginnings give equal
    # logits to the last bit. Where a device does not, an unchanged row in each pass shows it.
    rows = min(tokens - 1, max(1, LOGITS // (tokens * vocab_size)))
    unchanged = model(text.repeat(rows + 1, 1).to(model.device)).logits
    position = torch.arange(tokens)
    largest = torch.zeros(3, dtype=torch.float64)
    for start in range(1, tokens, rows):
        # Row r is changed from position first[r] on; the last row, and what fills up the last
        # pass, is not changed at all.
        first = torch.arange(start, start + rows + 1).clamp(max=tokens).unsqueeze(1)
        first[-1] = tokens
        changed = torch.where(position < first, text, other)
        logits = model(changed.to(model.device)).logits
        change = (logits - unchanged).abs().amax(-1).double().cpu()
        is_changed = first < tokens
        where = (position < first) & is_changed, position >= first, ~is_changed
        found = torch.stack([(change * part).max() for part in where])
        largest = torch.maximum(largest, found)
    if not largest.isfinite().all():
        raise LLMLiteError("The model's logits are not all finite, so they show no leak or none.")
    return tuple(largest.tolist())
