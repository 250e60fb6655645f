"""Which compiler for TPUs goes with the installed JAX."""

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.perf import versions

REQUIRES = ['jaxlib<=0.10.2,>=0.10.2; extra == "tpu"', 'libtpu==0.0.42.*; extra == "tpu"', "numpy>=2.0"]


def install(monkeypatch, libtpu, requires=REQUIRES):
    found = {"jax": "0.10.2", "jaxlib": "0.10.2", "libtpu": libtpu}

    def version(name):
        if not found[name]:
            raise versions.metadata.PackageNotFoundError(name)
        return found[name]

    monkeypatch.setattr(versions.metadata, "version", version)
    monkeypatch.setattr(versions.metadata, "requires", lambda name: requires)


def test_the_installed_jax_names_a_compiler():
    assert versions.pinned_libtpu(versions.metadata.requires("jax")).startswith("0.0.")
    assert versions.pinned_libtpu(["numpy>=2.0", 'libtpu>=0.0.42; extra == "tpu"']) == ""


@pytest.mark.parametrize("libtpu", ["0.0.42", "0.0.42.1"])
def test_the_named_compiler_is_taken_and_printed(libtpu, monkeypatch):
    install(monkeypatch, libtpu)
    assert str(versions.check_compiler()) == f"libtpu {libtpu}, jax 0.10.2, jaxlib 0.10.2"


@pytest.mark.parametrize("libtpu", ["0.0.52", "0.0.4", "0.0.421"])
def test_another_compiler_is_refused_by_name_with_the_one_to_install(libtpu, monkeypatch):
    install(monkeypatch, libtpu)
    with pytest.raises(Owl2Error) as refused:
        versions.check_compiler()
    assert str(refused.value).startswith(f"libtpu {libtpu} does not go with jax 0.10.2 and jaxlib 0.10.2")
    assert "pip install 'libtpu==0.0.42.*'" in str(refused.value)


def test_a_jax_that_names_none_takes_any(monkeypatch):
    install(monkeypatch, "0.0.52", ["numpy>=2.0"])
    assert versions.check_compiler().libtpu == "0.0.52"


def test_without_the_compiler_the_error_says_what_to_install(monkeypatch):
    install(monkeypatch, "")
    with pytest.raises(Owl2Error, match=r"pip install 'owl2_jax\[fit\]'"):
        versions.check_compiler()
