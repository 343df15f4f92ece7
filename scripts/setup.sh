#!/usr/bin/env bash
# Makes a virtual environment with the tools of some dependency groups and with plait built into it.
#
#     scripts/setup.sh [--no-build] GROUP...      groups are those of pyproject.toml, e.g. `demo` or `test check`
#
# PYTHON=...  the interpreter to use (otherwise the newest of 3.13, 3.12, 3.11 or any python3 that is new enough)
# VENV=...    where the environment goes (.venv)
#
# Does only what is not done yet: the stamps of earlier runs are in $VENV/.plait. One sentence says what is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=${VENV:-.venv}
case $VENV in /*) ;; *) VENV=$PWD/$VENV ;; esac
STAMPS=$VENV/.plait
NEEDS_PYTHON=3.11
NEEDS_RUST=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' Cargo.toml)

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { printf 'plait %s\n' "$*" >&2; exit 1; }
at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; } # wanted, found

# A name on PATH proves little (version managers leave shims that refuse to run), so every candidate is run.
usable_python() {
    "$1" -c "import sys; sys.exit(sys.implementation.name != 'cpython' or sys.version_info < (${NEEDS_PYTHON/./,}))" \
        >/dev/null 2>&1
}

find_python() {
    local name
    if [ -n "${PYTHON:-}" ]; then
        usable_python "$PYTHON" || fail "needs CPython $NEEDS_PYTHON or newer, and PYTHON=$PYTHON is not one that runs."
        command -v "$PYTHON"
        return
    fi
    for name in python3.13 python3.12 python3.11 python3.14 python3; do
        # Several of one name may be on PATH, the first a shim and the second a real one.
        while read -r name; do
            if usable_python "$name"; then
                printf '%s\n' "$name"
                return
            fi
        done < <(type -ap "$name")
    done
    fail "needs CPython $NEEDS_PYTHON or newer: install it ('apt install python3 python3-venv' on Debian 12) or name one with PYTHON=/path/to/python."
}

check_rust() {
    local found
    command -v cargo >/dev/null 2>&1 || PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
    { cargo --version && rustc --version; } >/dev/null 2>&1 ||
        fail "needs a Rust toolchain, $NEEDS_RUST or newer: install it from https://rustup.rs (Debian 12's own rustc is too old)."
    found=$(rustc --version | cut -d ' ' -f 2)
    at_least "$NEEDS_RUST" "$found" ||
        fail "needs Rust $NEEDS_RUST or newer and found $found (Debian 12's own is 1.63): run 'rustup update' or install it from https://rustup.rs."
    "${CC:-cc}" --version >/dev/null 2>&1 || fail "needs a C compiler to link with: 'apt install gcc libc6-dev' on Debian."
}

make_venv() {
    local python now
    if [ -e "$STAMPS/made" ] && usable_python "$VENV/bin/python"; then
        [ -n "${PYTHON:-}" ] || return 0
        python=$(find_python)
        # Asked by version and build rather than by path: a shim and its target are one interpreter.
        now='import sys, sysconfig; print(sys.version, sysconfig.get_config_var("Py_GIL_DISABLED"))'
        [ "$("$python" -c "$now")" != "$("$VENV/bin/python" -c "$now")" ] || return 0
    else
        python=$(find_python)
    fi
    "$python" -c 'import ensurepip, venv' >/dev/null 2>&1 ||
        fail "needs Python's venv module, which $python lacks: 'apt install python3-venv' on Debian."
    say "making ${VENV#"$PWD"/} with $("$python" -V) ($python)"
    rm -rf "$VENV"
    "$python" -m venv "$VENV" || fail "could not make a virtual environment in $VENV with $python."
    mkdir -p "$STAMPS"
    touch "$STAMPS/made"
}

# The requirements of dependency groups, included groups resolved: pip reads groups itself only from 25.1 on.
requirements() {
    "$VENV/bin/python" - "$@" <<'PY'
import sys, tomllib

with open("pyproject.toml", "rb") as file:
    groups = tomllib.load(file)["dependency-groups"]

def expand(name):
    for entry in groups[name]:
        if isinstance(entry, str):
            yield entry
        else:
            yield from expand(entry["include-group"])

if not groups.keys() >= set(sys.argv[1:]):
    sys.exit(1)
print(*sorted({entry for name in sys.argv[1:] for entry in expand(name)}), sep="\n")
PY
}

install_tools() {
    local wanted missing
    wanted=$(requirements "$@") || fail "has no such dependency group in pyproject.toml, one of: $*."
    missing=$(grep -vxFf "$STAMPS/tools" <<<"$wanted" || true)
    [ -n "$missing" ] || return 0
    say "installing" $missing
    # shellcheck disable=SC2086  # one word for each requirement
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check $missing >"$STAMPS/pip.log" 2>&1 || {
        cat "$STAMPS/pip.log" >&2
        fail "could not install its tools: pip's message is above; is PyPI reachable?"
    }
    printf '%s\n' "$missing" >>"$STAMPS/tools"
}

built() {
    [ -e "$STAMPS/built" ] &&
        [ -z "$(find pyproject.toml Cargo.toml Cargo.lock crates -newer "$STAMPS/built" -print -quit 2>&1)" ] &&
        "$VENV/bin/python" -c 'import plait._core' >/dev/null 2>&1
}

build() {
    local began
    built && return 0
    say "building plait in release mode (some minutes the first time)"
    rm -f "$STAMPS/built"
    began=$(mktemp "$STAMPS/XXXXXX") # what is edited while it builds is newer than this
    VIRTUAL_ENV=$VENV "$VENV/bin/python" -m maturin develop --release --quiet >"$STAMPS/build.log" 2>&1 || {
        rm -f "$began"
        cat "$STAMPS/build.log" >&2
        fail "did not build: the compiler's message is above."
    }
    mv "$began" "$STAMPS/built"
    "$VENV/bin/python" -c 'import plait._core' || fail "was built, but cannot be imported: the message is above."
}

with_build=yes
if [ "${1:-}" = --no-build ]; then
    with_build=
    shift
fi
[ "$(uname -s)" = Linux ] || fail "runs on Linux only: it is made of futexes, memfds and pidfds."
check_rust
make_venv
touch "$STAMPS/tools"
install_tools build "$@"
if [ -n "$with_build" ]; then
    build
    "$VENV/bin/python" -m compileall -q python/plait # as an installed package is: each fork server would do it again
fi
