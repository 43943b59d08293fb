"""Finding a CUDA toolkit, choosing architectures, deciding whether to compile CUDA.

Fake toolkits, whose nvcc is a shell script, stand in for the many ways of installing one.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from build_support import environment, toolkit  # noqa: E402
from build_support.environment import BuildError, Torch  # noqa: E402
from build_support.toolkit import ToolkitError  # noqa: E402

NVCC = """\
#!/bin/sh
case "$1" in
  --version) echo "Cuda compilation tools, release {release}, V{release}.1" ;;
  --list-gpu-arch) printf 'compute_75\\ncompute_80\\ncompute_90\\ncompute_120\\n' ;;
  --dryrun)
    echo "#$ TOP=$(dirname "$0")/.."
    echo '#$ INCLUDES="-I{include}"  '
    echo '#$ LIBRARIES=  "-L{lib}/stubs" "-L{lib}"' ;;
esac
"""


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def fake_toolkit(
    home: Path,
    lib: str = "lib64",
    include: str = "include",
    release: str = "13.0",
    without: str = "",
) -> Path:
    """A folder that looks like a CUDA toolkit, less the file named `without`."""
    include_dir, lib_dir = home / include, home / lib
    text = NVCC.format(release=release, include=include_dir, lib=lib_dir)
    script(home / "bin" / "nvcc", text)
    for file in (include_dir / "cuda_runtime.h", lib_dir / "libcudart_static.a"):
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.name != without:
            file.touch()
    return home


def find(environ: dict[str, str], *well_known: Path) -> toolkit.CudaToolkit:
    return toolkit.find_toolkit(
        {"PATH": "", **environ}, well_known=tuple(str(path) for path in well_known)
    )


@pytest.mark.parametrize("variable", ["CUDA_HOME", "CUDA_PATH"])
@pytest.mark.parametrize("lib", ["lib64", "lib", "targets/x86_64-linux/lib"])
@pytest.mark.parametrize("include", ["include", "targets/x86_64-linux/include"])
def test_toolkit_in_each_layout(tmp_path, variable, lib, include):
    home = fake_toolkit(tmp_path / "cuda", lib, include)
    found = find({variable: str(home)})
    assert found == toolkit.CudaToolkit(
        nvcc=home / "bin/nvcc",
        include_dir=home / include,
        library_dir=home / lib,
        version="13.0",
        supported_archs=("7.5", "8.0", "9.0", "12.0"),
    )


def test_toolkit_behind_a_link_on_path(tmp_path):
    home = fake_toolkit(tmp_path / "cuda")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/nvcc").symlink_to(home / "bin/nvcc")
    # A link's $0 is the link: the fake nvcc's TOP is then wrong, as it would be for a copied
    # driver.
    script(home / "bin/nvcc", (home / "bin/nvcc").read_text().replace("TOP=", "SOMETHING="))
    assert find({"PATH": str(tmp_path / "bin")}).nvcc == home / "bin/nvcc"


def test_toolkit_behind_a_wrapper_on_path(tmp_path):
    home = fake_toolkit(tmp_path / "cuda")
    script(tmp_path / "usr/bin/nvcc", f'#!/bin/sh\nexec {home}/bin/nvcc "$@"\n')
    path = f"{tmp_path}/usr/bin:{os.environ['PATH']}"
    found = find({"PATH": path})
    assert (found.nvcc, found.library_dir) == (home / "bin/nvcc", home / "lib64")


def test_toolkit_split_over_folders_as_distributions_do(tmp_path):
    home = fake_toolkit(tmp_path / "lib/cuda", lib="../../usr/lib", include="../../usr/include")
    found = find({"CUDA_HOME": str(home)})
    assert found.include_dir.resolve() == tmp_path / "usr/include"
    assert found.library_dir.resolve() == tmp_path / "usr/lib"


@pytest.mark.parametrize("part", ["cuda_runtime.h", "libcudart_static.a"])
def test_incomplete_toolkit_is_named_with_what_it_lacks(tmp_path, part):
    home = fake_toolkit(tmp_path / "cuda", without=part)
    with pytest.raises(ToolkitError, match="no usable CUDA toolkit") as error:
        find({"CUDA_HOME": str(home)})
    message = str(error.value)
    assert f"CUDA_HOME={home}: {part} is in none of" in message
    assert toolkit.HOW_TO_GET_TOOLKIT in message


def test_incomplete_toolkit_is_passed_over(tmp_path):
    broken = fake_toolkit(tmp_path / "broken", without="libcudart_static.a")
    good = fake_toolkit(tmp_path / "good")
    path = f"{good}/bin:{os.environ['PATH']}"
    assert find({"CUDA_HOME": str(broken), "PATH": path}).nvcc == good / "bin/nvcc"


def test_nvcc_that_does_not_run(tmp_path):
    home = fake_toolkit(tmp_path / "cuda")
    (home / "bin/nvcc").write_bytes(b"\x7fELF garbage")
    with pytest.raises(ToolkitError, match="cannot be run"):
        find({"CUDA_HOME": str(home)})
    script(home / "bin/nvcc", "#!/bin/sh\necho hello\n")
    with pytest.raises(ToolkitError, match="does not name a CUDA release"):
        find({"CUDA_HOME": str(home)})


def test_too_old_a_toolkit_is_passed_over(tmp_path):
    for release in ("9.2", "12.4"):
        fake_toolkit(tmp_path / f"cuda-{release}", release=release)
    with pytest.raises(ToolkitError, match=r"cuda-9.2: wanted CUDA 12.5 or newer, got 9.2"):
        find({}, tmp_path / "cuda-*")
    fake_toolkit(tmp_path / "cuda-12.5", release="12.5")
    assert find({"CUDA_HOME": str(tmp_path / "cuda-9.2")}, tmp_path / "cuda-*").version == "12.5"


def test_newest_of_the_well_known_folders(tmp_path):
    for release in ("9.2", "13.0", "12.8"):
        fake_toolkit(tmp_path / f"cuda-{release}", release=release)
    assert find({}, tmp_path / "cuda", tmp_path / "cuda-*").version == "13.0"


def test_no_toolkit_anywhere(tmp_path):
    with pytest.raises(ToolkitError, match="no nvcc in CUDA_HOME"):
        find({}, tmp_path / "cuda")


@pytest.mark.parametrize(
    ("requested", "expected"),
    [
        ("", ("7.5", "8.0", "9.0a", "12.0+PTX")),
        ("9.0", ("9.0a",)),
        ("9.0+PTX", ("9.0a", "9.0+PTX")),
        ("8.0;9.0a+PTX", ("8.0", "9.0a+PTX")),
        ("8.0, 9.0 8.0", ("8.0", "9.0a")),
    ],
)
def test_choose_archs(requested, expected):
    assert toolkit.choose_archs(requested, ("7.5", "8.0", "8.7", "9.0", "12.0")) == expected


def test_ptx_is_of_an_architecture_that_newer_gpus_can_use():
    """Of a toolkit whose newest architecture is 9.0: machine code of 9.0a, PTX of 9.0."""
    archs = toolkit.choose_archs("", ("7.5", "8.0", "8.6", "8.9", "9.0"))
    assert archs == ("7.5", "8.0", "8.6", "9.0a", "9.0+PTX")
    assert toolkit.gencode_flags(archs)[-2:] == [
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_90,code=compute_90",
    ]
    assert toolkit.gencode_flags(("9.0+PTX",)) == [
        "-gencode=arch=compute_90,code=sm_90",
        "-gencode=arch=compute_90,code=compute_90",
    ]


@pytest.mark.parametrize(
    ("requested", "supported", "message"),
    [
        ("Hopper", ("9.0",), 'must look like "9.0", "9.0a" or "9.0\\+PTX", got "Hopper"'),
        ("90", ("9.0",), 'got "90"'),
        ("7.0", ("7.5", "8.0"), "supports 7.5, 8.0, got 7.0"),
        ("", ("5.0",), "only 5.0: set TORCH_CUDA_ARCH_LIST"),
    ],
)
def test_choose_archs_refuses(requested, supported, message):
    with pytest.raises(ToolkitError, match=message):
        toolkit.choose_archs(requested, supported)


def test_gencode_flags():
    assert toolkit.gencode_flags(("9.0a", "12.0+PTX")) == [
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_120,code=sm_120",
        "-gencode=arch=compute_120,code=compute_120",
    ]


def fake_torch(cuda: str | None) -> Torch:
    return Torch("2.14.1", cuda, Path("include"), Path("lib"))


@pytest.mark.parametrize("cuda", [None, "13.0"])
@pytest.mark.parametrize("choice", ["auto", "0", "1"])
def test_cuda_is_decided_by_torch_and_toolkit_alone(tmp_path, choice, cuda):
    environ = {"GDEXT_CUDA": choice, "CUDA_HOME": str(fake_toolkit(tmp_path)), "PATH": ""}
    found, notes = environment.decide_cuda(environ, fake_torch(cuda))
    assert (found is not None) == (choice == "1" or (choice == "auto" and cuda is not None))
    assert notes == []


def no_toolkit(environ):
    raise ToolkitError("no usable CUDA toolkit was found")


def test_cuda_without_toolkit(monkeypatch):
    monkeypatch.setattr(environment, "find_toolkit", no_toolkit)
    found, notes = environment.decide_cuda({}, fake_torch("13.0"))
    assert found is None
    assert notes == ["building for the CPU alone: no usable CUDA toolkit was found"]
    with pytest.raises(BuildError, match="GDEXT_CUDA=1, but no usable CUDA toolkit"):
        environment.decide_cuda({"GDEXT_CUDA": "1"}, fake_torch("13.0"))


@pytest.mark.parametrize("value", ["", "yes", "2"])
def test_gdext_cuda_of_another_value(value):
    with pytest.raises(BuildError, match=f'must be auto, 0 or 1, got "{value}"'):
        environment.decide_cuda({"GDEXT_CUDA": value}, fake_torch(None))


def test_toolkit_of_another_major_version_is_told(tmp_path):
    environ = {"CUDA_HOME": str(fake_toolkit(tmp_path)), "PATH": ""}
    _, notes = environment.decide_cuda(environ, fake_torch("12.8"))
    assert len(notes) == 1
    assert "toolkit is 13.0, PyTorch was built for CUDA 12.8" in notes[0]
