"""A thousand mutated requests; `tests.fuzz` runs more of them."""

from __future__ import annotations

from itertools import islice

import httpx
import numpy as np

from tests.fuzz.requests import bodies, cases


def test_a_thousand_mutated_requests_are_read_or_refused():
    for case in islice(cases(np.random.default_rng(0)), 1000):
        case()


def test_mutated_requests_over_http_get_an_answer_or_a_4xx_error(shared):
    """Those that can be read are answered; what is wrong with an image or the model's name is told."""
    with httpx.Client(
        base_url=shared.url, headers={"Content-Type": "application/json"}, timeout=120
    ) as client:
        for body in islice(bodies(np.random.default_rng(1)), 200):
            for path in ("chat/completions", "attention"):
                response = client.post(f"/v1/{path}", content=body)
                assert response.status_code < 500, body
                if response.status_code != 200:
                    assert response.json()["error"]["message"]
    shared.wait(shared.idle)
