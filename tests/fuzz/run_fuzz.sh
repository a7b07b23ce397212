#!/usr/bin/env bash
# Fuzzes the parsers of the hot path, with AddressSanitizer and UndefinedBehaviorSanitizer.
#
#   tests/fuzz/run_fuzz.sh PYTHON FOLDER RUNS [TARGET...]
#
# PYTHON is an environment with Atheris; FOLDER is where the extensions are built with clang, and
# where inputs that reach new code, and those that find something, are kept; RUNS is how often each
# target is run. All targets are run unless some are named.
set -euo pipefail

if (($# < 3)); then
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
mkdir -p "$2"
folder=$(cd "$2" && pwd)
runs=$3
shift 3
source=$folder/source

cd "$root"
mkdir -p "$source"
find "$source" -type f -not -path "$source/build/*" -not -name '*.so' -delete
tar --create --exclude='*.so' --exclude='*.c' --exclude=__pycache__ \
    setup.py pyproject.toml README.md hotpath server clients protos \
    | tar --extract --directory "$source"
(cd "$source" && CC=clang HOTFEAST_SANITIZE=fuzzer "$python" setup.py --quiet build_ext --inplace \
    --parallel "$(nproc)")

preload=$("$python" -c 'import atheris; print(atheris.path())')/asan_with_fuzzer.so
export PYTHONPATH=$source/build/namespace:$root
export PYTHONMALLOC=malloc
export PYTHONDONTWRITEBYTECODE=1
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1

if (($# == 0)); then
    mapfile -t names < <(LD_PRELOAD=$preload "$python" -c \
        'from tests.fuzz.targets import TARGETS; print("\n".join(TARGETS))')
    set -- "${names[@]}"
fi
failed=()
for target in "$@"; do
    mkdir -p "$folder/corpus/$target"
    echo "== $target"
    LD_PRELOAD=$preload "$python" tests/fuzz/run.py fuzz "$target" \
        "$folder/corpus/$target" "$runs" \
        > "$folder/$target.log" 2>&1 || { tail -n 60 "$folder/$target.log" >&2; failed+=("$target"); }
    grep -E '^stat::number_of_executed_units|^Done' "$folder/$target.log"
done
if ((${#failed[@]})); then
    echo "Found something in: ${failed[*]}; the inputs are in $folder/corpus/found-*" >&2
    exit 1
fi
