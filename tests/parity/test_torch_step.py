"""The PyTorch model that training steps are timed beside."""

from __future__ import annotations

import numpy as np
import torch
from safetensors.torch import load_file

from owl2_jax.core.axes import IMAGE_TOKEN
from tests.parity.golden import GOLDEN, assert_close, load
from tests.parity.torch_step import TorchOwl2, make_step, next_token_loss


def test_it_is_the_original_by_its_logits_loss_and_gradients() -> None:
    config, _, golden, meta = load("A")
    model = TorchOwl2(config)
    buffers = ("pos_embed", "inv_freq")
    saved = load_file(GOLDEN / "A" / "hf" / "model.safetensors")
    model.load_state_dict({name: leaf for name, leaf in saved.items() if not name.endswith(buffers)})
    ids, span = golden["i/input_ids"], config.tokens_per_image
    start = int(np.argmax(ids[0] == IMAGE_TOKEN))
    tokens = np.concatenate([ids[:, :start], np.zeros((1, span), ids.dtype), ids[:, start + 1 :]], axis=1)
    logits = model(torch.from_numpy(tokens), torch.from_numpy(golden["i/images"]), start)
    loss = next_token_loss(logits, torch.from_numpy(golden["i/expanded_labels"]))
    loss.backward()
    norms = {name: float(leaf.grad.norm()) for name, leaf in model.named_parameters()}
    assert_close(logits.detach(), golden["i/logits"])
    assert_close(loss.detach(), golden["i/loss"])
    assert_close([norms[name] for name in meta["param_names"]], golden["i/grad_norms"])


def test_its_steps_lower_the_loss_of_their_batch() -> None:
    config, *_ = load("A")
    _, step = make_step(config, rows=2, length=12)
    losses = [step() for _ in range(3)]
    assert losses[2] < losses[1] < losses[0]
