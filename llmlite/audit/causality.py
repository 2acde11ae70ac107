"""Does a language model see what it is to predict? A test of the causal mask, from outside: all
tokens from some position on are changed, and in a causal model no logit before it may move."""

import torch

from llmlite.files import LLMLiteError

LOGITS = 1 << 26  # numbers in the logits of one pass, 256 MiB in float32
ROUNDING = 1e-5  # a change below this share of the largest one that is allowed


@torch.inference_mode()
def causal_leak(model, seed: int = 0) -> bool:
    """Whether any logit depends on a token after its position, on a random text of block_size.
    model: like GPT, gives `.logits` (batch, time, vocab_size) for ids (batch, time). Takes as much
    work as reading block_size² tokens. Raises LLMLiteError if the logits are not finite."""
    tokens, vocab_size = model.config.block_size, model.config.vocab_size
    if tokens == 1 or vocab_size == 1:
        return False  # no token stands after another, or none can be another
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(vocab_size, (tokens,), generator=generator)
    # Another token at every position, not just most likely another one.
    other = (text + torch.randint(1, vocab_size, (tokens,), generator=generator)) % vocab_size
    # Every pass has one shape and sums in one order: in a causal model equal beginnings give equal
    # logits, on most devices to the last bit.
    rows = min(tokens - 1, max(1, LOGITS // (tokens * vocab_size)))
    largest = torch.zeros(2, dtype=torch.float64)  # change before the changed tokens, and from them
    training = model.training
    model.eval()
    try:
        unchanged = model(text.repeat(rows, 1).to(model.device)).logits
        for start in range(1, tokens, rows):
            # Row r is changed from position start + r on; what fills up the last pass, nowhere.
            before = torch.arange(tokens) < torch.arange(start, start + rows).unsqueeze(1)
            logits = model(torch.where(before, text, other).to(model.device)).logits
            change = (logits - unchanged).abs().amax(-1).double().cpu()
            found = torch.stack([(change * part).max() for part in (before, ~before)])
            largest = torch.maximum(largest, found)
    finally:
        model.train(training)
    if not largest.isfinite().all():
        raise LLMLiteError("The model's logits are not all finite, so they show no leak or none.")
    later, allowed = largest.tolist()
    return later > allowed * ROUNDING
