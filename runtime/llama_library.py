"""llama.cpp as a library: its kernels, its log, its quantiser.

Only this module and `llama_backend` import llama_cpp.
"""

import ctypes
import logging
from collections import deque
from functools import cache
from pathlib import Path
from typing import Any

import llama_cpp
import llama_cpp.llama_cpp as C  # noqa: N812 (the C API)
from llama_cpp._ggml import libggml

from runtime.errors import ModelError
from runtime.host import cpu_model

logger = logging.getLogger(__name__)

_FILE_TYPES = {
    "f32": C.LLAMA_FTYPE_ALL_F32,
    "f16": C.LLAMA_FTYPE_MOSTLY_F16,
    "q4_0": C.LLAMA_FTYPE_MOSTLY_Q4_0,
    "q8_0": C.LLAMA_FTYPE_MOSTLY_Q8_0,
    "q4_k_m": C.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "q5_k_m": C.LLAMA_FTYPE_MOSTLY_Q5_K_M,
    "q6_k": C.LLAMA_FTYPE_MOSTLY_Q6_K,
}
_ERROR_LEVEL = 4
_LIBRARIES = Path(llama_cpp.__file__).parent / "lib"

_recent_errors: deque[str] = deque(maxlen=4)


@C.llama_log_callback  # type: ignore[untyped-decorator]
def _on_log(level: int, text: bytes, _: Any) -> None:
    message = text.decode("utf-8", errors="replace").strip()
    if level == _ERROR_LEVEL:
        _recent_errors.append(message)
    logger.debug("%s", message)


@cache
def start_llama() -> None:
    """Load the kernels and listen to the log; the first time counts. Raises ModelError."""
    C.llama_log_set(_on_log, ctypes.c_void_p(0))
    _load_kernels()
    C.llama_backend_init()


def _load_kernels() -> None:
    """Where kernels are libraries of their own (GGML_BACKEND_DL), load the best that runs here."""
    if not libggml.ggml_backend_reg_count():
        libggml.ggml_backend_load_all_from_path(str(_LIBRARIES).encode())
    if not libggml.ggml_backend_reg_count():
        raise ModelError(
            f"{_LIBRARIES}: none of llama.cpp's kernels runs on this CPU ({cpu_model()}); "
            "compile llama-cpp-python on this machine"
        )


def has_kernels_to_choose_from() -> bool:
    """Whether this build has kernels for several CPUs, of which the best is loaded."""
    return any(_LIBRARIES.glob("*ggml-cpu-*"))


def llama_version() -> str:
    """Version of the package, which stands for that of llama.cpp."""
    return str(llama_cpp.__version__)


def cpu_features() -> dict[str, bool]:
    """CPU features that this build of llama.cpp uses here, e.g. `{"AVX2": True, …}`."""
    start_llama()
    info = C.llama_print_system_info().decode()
    pairs = (part.rpartition(":")[2].partition("=") for part in info.split("|") if "=" in part)
    return {name.strip(): value.strip() == "1" for name, _, value in pairs}


def quantize(source: Path, target: Path, type_name: str, *, n_threads: int = 2) -> None:
    """Write `source` as `target` with llama.cpp's quantiser (`q4_k_m`, `q8_0`, …).

    Raises ModelError when the type is unknown or llama.cpp fails.
    """
    start_llama()
    if type_name not in _FILE_TYPES:
        raise ModelError(f"unknown type {type_name!r}; one of {', '.join(_FILE_TYPES)}")
    params = C.llama_model_quantize_default_params()
    params.ftype, params.nthread = _FILE_TYPES[type_name], n_threads
    params.allow_requantize = True
    forget_errors()
    code = C.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    if code != 0:
        raise ModelError(f"{source}: quantising to {type_name} failed: {last_error()}")


def forget_errors() -> None:
    """What `last_error` says is what happens from here on."""
    _recent_errors.clear()


def last_error() -> str:
    """What llama.cpp first said of why it failed."""
    return _recent_errors[0] if _recent_errors else "llama.cpp gave no reason"
