"""What times the products beside PyTorch: both compute the same one, and every line is printed."""

from __future__ import annotations

import numpy as np

from tests.parity import torch_products


def test_both_compute_the_product_and_its_gradients():
    found = torch_products.products(rows=3, inner=4, outer=5)
    assert {name: (a.shape, b.shape) for name, (a, b) in found.items()} == {
        "x @ w": ((3, 4), (4, 5)),
        "g @ w.T": ((3, 5), (5, 4)),
        "x.T @ g": ((4, 3), (3, 5)),
    }
    for a, b in found.values():
        for make in (torch_products.in_jax, torch_products.in_torch):
            np.testing.assert_allclose(np.asarray(make(a, b)()), a @ b, rtol=1e-5, atol=1e-6)


def test_a_line_tells_of_every_product(capsys, monkeypatch):
    monkeypatch.setattr(torch_products, "WIDTHS", (("width", "mlp_dim"),))
    assert torch_products.main(["--calls=1", "--rows=2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[1].strip() for line in lines] == ["x @ w", "g @ w.T", "x.T @ g"]
    assert all(line.startswith("512 to 1376") and "PyTorch" in line for line in lines)
