"""Attempts to break the certificates of powers, the quotients without a division, the products.

The attempts can succeed: with all margins at 0.002 in src/shared/powers.pxd the first twenty
million numbers of glibc 2.36 give 1,396 wrong squares, 3,698 wrong roots and 1,798
to 2,007 wrong results of each other power; without its last multiply-add `vec_quotient`
gives 92,638 wrong quotients.
"""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig

import pytest

import testing

EXP = """
#define _GNU_SOURCE
#include <dlfcn.h>
double exp(double x) {
    double y = ((double (*)(double))dlsym(RTLD_NEXT, "exp"))(x);
    return x < -400.0 ? y * (1.0 + 0x1p-52) : y;
}
"""


def attack(simd, n, seed):
    """Attack an instruction set: no certain result is wrong, and most are certain."""
    module = testing.load(simd)
    for powers in (module.attack_powers, module.attack_inverses):
        for certain, wrong in powers(n, seed).values():
            assert wrong == 0
            assert certain > 0.5 * n
    by_vectors, wrong = module.attack_exponentials(n, seed)
    assert wrong == 0
    if simd != "baseline" and platform.libc_ver()[0] == "glibc":  # both fuse multiply-adds
        assert by_vectors > 0.8 * n
    assert module.attack_quotients(n, seed) == (n, 0)


def test_no_counter_example_among_two_million(fused):
    attack(fused.SIMD, 2_000_000, 88172645463325252)


@pytest.mark.skipif(
    sys.platform != "linux" or "asan" in os.environ.get("LD_PRELOAD", ""), reason="preloads an exp"
)
def test_exponentials_are_those_of_a_libm_that_differs_only_far_below_zero(fused, tmp_path):
    source, library = tmp_path / "exp.c", tmp_path / "exp.so"
    source.write_text(EXP)
    compiler = shutil.which("cc") or sysconfig.get_config_var("CC").split()[0]
    subprocess.run([compiler, "-shared", "-fPIC", source, "-o", library, "-ldl"], check=True)
    program = f"import testing; print(testing.load({fused.SIMD!r}).attack_exponentials(100_000, 5))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd=os.path.dirname(__file__),
        env={**os.environ, "LD_PRELOAD": str(library)},
    )
    assert done.stdout == "(0, 0)\n", done.stderr


@pytest.mark.parametrize("exponent", [-0.5, -1.0, -1.5, -2.0])
def test_powers_are_written_up_to_the_last_and_no_further(fused, exponent):
    for n in range(33):
        written = [(i + 1.0) ** exponent for i in range(n)]
        assert testing.load(fused.SIMD).inverse_powers(n, exponent) == written + [7.0] * (40 - n)


@pytest.mark.parametrize("seed", [88172645463325252, 1234567])
def test_products_of_any_sizes_are_sums_in_order(fused, seed):
    assert testing.load(fused.SIMD).attack_products(60, seed) == (60, 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 9))
def test_no_counter_example_among_hundreds_of_millions(fused, seed):
    attack(fused.SIMD, 50_000_000, seed * 0x9E3779B97F4A7C15 % 2**64)


def test_the_loop_that_measures_the_peak_multiplies_and_adds(fused):
    module = testing.load(fused.SIMD)
    for rounds in (1, 1000):
        vectors, plain = module.peak_sums(rounds)
        assert vectors == plain > 0.0
    assert module.peak(0.01) > 1e6
