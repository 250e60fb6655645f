from __future__ import annotations

import jax.numpy as jnp

from owl2_jax.core.buckets import files_below
from owl2_jax.training.logging.profile import PROFILE_DIR, Profile


def test_a_trace_of_a_run_in_a_bucket_is_put_there(bucket):
    with Profile(bucket, (1, 1)) as profile:
        profile.before(1)
        profile.after(1, jnp.ones(2) + 1)
    names = [str(file) for file in files_below(bucket / PROFILE_DIR)]
    assert any(name.endswith(".xplane.pb") for name in names)
