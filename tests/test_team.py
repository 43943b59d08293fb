"""Teams of threads (csrc/cpu/team.h), alone, with and without ThreadSanitizer."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from native_build import CSRC, TESTS, Fault, compile_objects, link, missing, run

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

NATIVE = TESTS / "native"
FLAGS = {
    "plain": ["-O2"],
    # Forked processes start threads of their own, which ThreadSanitizer must be asked to bear.
    "thread": ["-O1", "-g1", "-fsanitize=thread"],
}
ENV = {"TSAN_OPTIONS": "die_after_fork=0"}


def build(sanitizer: str, csrc: Path, native: Path, folder: Path) -> Path:
    flags = ["-std=c++17", "-Wall", "-Werror", *FLAGS[sanitizer]]
    sources = [csrc / "cpu" / "team.cpp", native / "team_main.cpp"]
    return link(compile_objects(sources, [*flags, f"-I{csrc}"], folder), folder / "team", flags)


@pytest.fixture(scope="module", params=FLAGS)
def driver(request, tmp_path_factory) -> Path:
    return build(request.param, CSRC, NATIVE, tmp_path_factory.mktemp("team"))


@pytest.mark.parametrize("what", ["order", "callers", "crews", "fork", "exit"])
def test_team(driver, what):
    done = run(driver, what, env=ENV)
    printed = re.fullmatch(rf"team, {what}: (\d+) checks, 0 failures\n", done.stdout)
    assert done.returncode == 0 and printed, (done.returncode, done.stdout, done.stderr)
    assert int(printed[1]) > 40
    assert done.stderr == ""


@pytest.mark.parametrize(
    "tree, fault",
    [
        (
            NATIVE,
            Fault(
                "team_main.cpp",
                "      member.barrier();\n      check(",
                "      check(",
            ),
        ),
        (
            CSRC,
            Fault(
                "cpu/team.cpp",
                "return word_.load(std::memory_order_acquire);",
                "return word_.load(std::memory_order_relaxed);",
            ),
        ),
    ],
    ids=["a missing barrier", "a barrier that orders nothing"],
)
def test_thread_sanitizer_finds(tree, fault, tmp_path):
    planted = fault.plant(tree, tmp_path)
    csrc, native = (planted, NATIVE) if tree is CSRC else (CSRC, planted)
    done = run(build("thread", csrc, native, tmp_path), "order", env=ENV)
    assert done.returncode != 0
    assert "ThreadSanitizer: data race" in done.stderr
