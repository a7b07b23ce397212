#!/usr/bin/env bash
# The hot path's tests with AddressSanitizer and UndefinedBehaviorSanitizer.
#
#   tests/run_asan.sh PYTHON FOLDER [PYTEST_ARGUMENT...]
#
# PYTHON is the environment that the tests run in otherwise; its packages are used as they are. The
# sanitized extensions are built in a copy of the sources in FOLDER, which PYTHONPATH puts in front
# of the installed ones. So the extensions in the checkout stay what they are.
set -euo pipefail

if (($# < 2)); then
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
mkdir -p "$2"
folder=$(cd "$2" && pwd)
shift 2
source=$folder/source
report=$folder/report

cd "$root"
# Sources are copied anew with their times, so that only what has changed is compiled again.
mkdir -p "$source"
find "$source" -type f -not -path "$source/build/*" -not -name '*.so' -delete
tar --create --exclude='*.so' --exclude='*.c' --exclude=__pycache__ \
    setup.py pyproject.toml README.md hotpath server clients protos \
    | tar --extract --directory "$source"
(cd "$source" && HOTFEAST_SANITIZE=address "$python" setup.py --quiet build_ext --inplace \
    --parallel "$(nproc)")

compiler=${CC:-gcc}
preload=
# The C++ library is named, too: AddressSanitizer must find it loaded, or the first C++ exception
# that a dependency throws ends the process.
for library in libasan.so libubsan.so libstdc++.so; do
    path=$("$compiler" -print-file-name="$library")
    if [[ $path != /* ]]; then
        echo "$library of $compiler is not installed" >&2
        exit 1
    fi
    preload+=${preload:+ }$(readlink --canonicalize "$path")
done

# Reports go to files: what a dying process writes while pytest captures its output is lost.
rm -f "$report".*
export PYTHONPATH=$source/build/namespace
export PYTHONMALLOC=malloc
export PYTHONDONTWRITEBYTECODE=1
export ASAN_OPTIONS=detect_leaks=0:exitcode=99:log_path=$report
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1:exitcode=99:log_path=$report

run() {
    LD_PRELOAD=$preload "$python" "$@"
}

# A sanitizer that sees nothing would pass every test.
if run - 2>/dev/null <<'PYTHON'
import ctypes

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.memset(ctypes.c_void_p(libc.malloc(ctypes.c_size_t(8))), 0, ctypes.c_size_t(9))
PYTHON
then
    echo "AddressSanitizer does not report a write behind a block" >&2
    exit 1
fi
if ! grep --quiet heap-buffer-overflow "$report".*; then
    echo "AddressSanitizer did not start" >&2
    exit 1
fi
rm -f "$report".*

run - "$source/hotpath" <<'PYTHON'
import importlib
import sys
from pathlib import Path

folder = Path(sys.argv[1]).resolve()
names = sorted(path.stem for path in folder.glob("*.pyx"))
for name in names:
    module = importlib.import_module(f"hotfeast.hotpath.{name}")
    file = Path(module.__file__).resolve()
    code = file.read_bytes()
    if file.parent != folder or b"__asan_init" not in code or b"__ubsan_handle" not in code:
        sys.exit(f"{module.__name__} comes from {file}, which is not the sanitized build")
print(f"Sanitized: {', '.join(names)}", flush=True)
PYTHON

outcome=0
# All of the hot path's own tests, what fuzzing has found, and those of the server in which clients
# and Redis speak with the hot path over sockets.
tests=(
    tests/hotpath tests/fuzz
    tests/server/test_{windows,tls,hostile_peers,overload}.py
)
# How the ordinary build is hardened does not hold of this one.
run -m pytest "${tests[@]}" --ignore tests/hotpath/test_hardening.py "$@" || outcome=$?
for file in "$report".*; do
    if [[ -e $file ]]; then
        cat "$file" >&2
        outcome=1
    fi
done
exit "$outcome"
