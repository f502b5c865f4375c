#!/usr/bin/env bash
# Prepares the Python environment of this checkout; `make demo`, `make test` and `make setup` call
# it. It checks what can go wrong before it downloads anything, and says each fault once.
# Result: build/env.sh with PY (the interpreter) and WITHOUT_DETECTRON2 (empty, or the reason).
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
COMMIT=02b5c4e295e990042a714712c21dc79b731e8833 # Detectron2, 2026-06-06
UV=uv==0.13.8
TRACKERS=(trackers==2.6.1 supervision==0.31.2) # without opencv-python, which clashes with headless
: "${VENV:=$ROOT/.venv}" "${PYTHON:=}" "${BASE_PYTHON:=}" "${MIN_DISK_GB:=8}"
UPSTREAM=git+https://github.com/facebookresearch/detectron2.git@$COMMIT
CHOSEN=$VENV/.detectron2_source # what DETECTRON2 was when .venv got it, where not UPSTREAM
: "${DETECTRON2:=$(cat "$CHOSEN" 2>/dev/null || echo "$UPSTREAM")}"
: "${REQUIRE_DETECTRON2:=0}" "${FORCE_CUDA:=0}"
FAILED=$VENV/.without_detectron2 # the key of the environment and why Detectron2 could not be built
LOG=$ROOT/build/setup_env.log
CHILD=

usage() {
  cat <<END
usage: tools/setup_env.sh [--check | --retry | --help]
  --check  only the checks that need no download: exit 0, or 1 and one sentence on stderr
  --retry  compile Detectron2 again although that failed before

Without PYTHON, a python3 on PATH that has Detectron2 and everything else is used as it is;
otherwise .venv is made (about $MIN_DISK_GB GB, most of it torch). Variables, all optional:
  PYTHON=/path/to/python       use this environment as it is; nothing is installed into it
  BASE_PYTHON=/path/to/python  the Python that .venv is made with (tested: 3.11, 3.12, 3.13)
  VENV=/path                   where the environment is made instead of .venv
  DETECTRON2=...               where Detectron2 comes from: git+<url>@<commit> (a mirror, or
                               git+file:///path/to/clone@<commit>), a folder with its setup.py,
                               or a wheel
  REQUIRE_DETECTRON2=1         no Detectron2 is an error, not a reason to do what can be done
  CXX=/path/to/compiler, FORCE_CUDA=1, MAX_JOBS=1   as in Detectron2's own build
  MIN_DISK_GB=8                how much free disk is asked for
torch comes with CUDA where the package index offers that. UV_TORCH_BACKEND=cpu (about 2 GB instead)
or the other ordinary variables of uv and pip choose another build or another index.
END
}

say() { printf 'setup: %s\n' "$*"; }
warn() { say "$@" >&2; }
die() {
  warn "$@"
  exit 1
}

# ---- checks: each prints one sentence, or nothing ----

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true; }

minor_of() { # the N of Python 3.N; 0 for anything else
  case $1 in 3.[0-9] | 3.[0-9][0-9]) echo "${1#3.}" ;; *) echo 0 ;; esac
}

choose_base_python() { # sets BASE_PYTHON: the first of the tested versions, else a newer one
  local candidate version minor newer="" seen=""
  set -- python3 python3.13 python3.12 python3.11
  [ -z "$BASE_PYTHON" ] || set -- "$BASE_PYTHON"
  for candidate in "$@"; do
    version=$(version_of "$candidate")
    [ -n "$version" ] || continue
    minor=$(minor_of "$version")
    seen="$seen $candidate is $version,"
    if [ "$minor" -ge 11 ] && [ "$minor" -le 13 ]; then
      BASE_PYTHON=$candidate
      return
    fi
    [ "$minor" -le 13 ] || newer=${newer:-$candidate}
  done
  if [ -z "$newer" ]; then
    die "Python 3.11, 3.12 or 3.13 is needed, but${seen:- none of $* can be run,}" \
      "so nothing was installed. Install one of them and name it with BASE_PYTHON=/path/to/python."
  fi
  BASE_PYTHON=$newer
  warn "$newer is Python $(version_of "$newer"), newer than the tested 3.11-3.13; going on with it."
}

venv_problem() { # venv_problem PYTHON
  "$1" -c 'import venv, ensurepip' 2>/dev/null || echo "$1 has no module 'venv' or 'ensurepip'," \
    "with which .venv is made. Install it (Debian and Ubuntu: the package python3-venv) or name" \
    "another Python with BASE_PYTHON=/path/to/python."
}

disk_problem() {
  local folder=$VENV free
  [ ! -f "$VENV/.stamp" ] || return 0 # torch is there already
  while [ ! -d "$folder" ]; do folder=$(dirname "$folder"); done
  free=$(($(df -Pk "$folder" | awk 'NR == 2 {print $4}') / 1048576))
  [ "$free" -ge "$MIN_DISK_GB" ] || echo "only $free GB are free in $folder and the environment" \
    "takes about $MIN_DISK_GB GB. Make room, or set VENV=/path/on/another/disk, or" \
    "UV_TORCH_BACKEND=cpu MIN_DISK_GB=2 for a torch without CUDA."
}

compiler_problem() { # sets CXX when the only compiler is not called c++
  local candidate found=""
  for candidate in "${CXX:-c++}" g++ clang++; do
    # Unquoted: CXX may be two words, such as `ccache g++`. A compiler without its headers fails.
    if $candidate -x c++ -fsyntax-only - <<<'#include <vector>' >/dev/null 2>&1; then
      found=$candidate
      break
    fi
    [ -z "${CXX:-}" ] || break
  done
  if [ -z "$found" ]; then
    PROBLEM="no working C++ compiler (${CXX:-c++, g++ or clang++}), and Detectron2 is compiled on \
this machine. Install one (Debian and Ubuntu: the package g++) or name it with CXX=/path/to/compiler."
  elif [ "$found" != c++ ]; then
    export CXX="$found"
  fi
}

headers_problem() { # headers_problem PYTHON
  "$1" -c 'import os, sysconfig
raise SystemExit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' \
    2>/dev/null ||
    echo "$1 comes without its C headers (Python.h), and Detectron2 is compiled against them." \
      "Install them (Debian and Ubuntu: the package python3-dev) or name another Python with" \
      "BASE_PYTHON=/path/to/python."
}

git_problem() { # git_problem git+URL[@REVISION]
  local url=${1#git+} limit="" answer code=0
  local other="set DETECTRON2=git+<url>@<commit> to a mirror or DETECTRON2=/path/to/checkout to a \
folder with Detectron2's setup.py"
  if ! command -v git >/dev/null; then
    echo "git is not installed, and Detectron2 is fetched with it. Install git, or $other."
    return
  fi
  case ${url##*/} in *@*) url=${url%@*} ;; esac
  if command -v timeout >/dev/null; then limit="timeout 30"; fi
  answer=$(GIT_TERMINAL_PROMPT=0 $limit git ls-remote "$url" HEAD 2>&1 </dev/null) || code=$?
  [ "$code" -ne 124 ] || answer="no answer within 30 seconds"
  [ "$code" -eq 0 ] || echo "Detectron2's repository $url cannot be read" \
    "($(grep -m1 -E '^fatal|^ssh|^no answer' <<<"$answer" || echo "git exit $code"))." \
    "Check the network, or $other."
}

cuda_problem() { # cuda_problem PYTHON: toolkit and torch must agree where CUDA code is compiled
  "$1" - <<'END' 2>/dev/null
import os, re, subprocess, torch
from torch.utils.cpp_extension import CUDA_HOME
force = os.environ.get("FORCE_CUDA") == "1"
if force or (torch.cuda.is_available() and CUDA_HOME):
    toolkit = "missing"
    if CUDA_HOME:
        nvcc = os.path.join(CUDA_HOME, "bin", "nvcc")
        text = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
        toolkit = (re.findall(r"release (\d+\.\d+)", text) or ["unreadable"])[0]
    built = torch.version.cuda or "no CUDA"
    if toolkit.split(".")[0] != built.split(".")[0]:
        print(f"the CUDA toolkit is {toolkit} ({CUDA_HOME}) but torch was built for {built}, so "
              "Detectron2's CUDA code cannot be compiled. Point CUDA_HOME to a toolkit of the same "
              "major version, or unset FORCE_CUDA: Faster R-CNN trains on GPUs without that code.")
END
}

find_detectron2_problem() { # find_detectron2_problem PYTHON: sets PROBLEM
  PROBLEM=
  case $DETECTRON2 in
    *.whl)
      [ -f "$DETECTRON2" ] || PROBLEM="the wheel DETECTRON2=$DETECTRON2 does not exist."
      return
      ;;
    git+*) PROBLEM=$(git_problem "$DETECTRON2") ;;
    *)
      [ -f "$DETECTRON2/setup.py" ] || PROBLEM="DETECTRON2=$DETECTRON2 is neither \
git+<url>@<commit>, nor a folder with Detectron2's setup.py, nor a wheel."
      ;;
  esac
  [ -n "$PROBLEM" ] || compiler_problem
  [ -n "$PROBLEM" ] || PROBLEM=$(headers_problem "$1")
}

# ---- steps ----

run_logged() { # run_logged TITLE COMMAND...: output goes to the log, progress to a terminal
  local title=$1 start=$SECONDS code=0
  shift
  : >"$LOG"
  set -m # a process group of its own, so that an interrupt can end all of it
  "$@" >>"$LOG" 2>&1 </dev/null &
  CHILD=$!
  set +m
  while [ -t 1 ] && kill -0 "$CHILD" 2>/dev/null; do
    printf '\r\033[Ksetup: %s, %d s  %.60s\r' "$title" $((SECONDS - start)) \
      "$(tail -n 1 "$LOG" | tr -d '\r\033')"
    sleep 0.3
  done
  wait "$CHILD" || code=$?
  CHILD=
  [ ! -t 1 ] || printf '\033[K'
  [ "$code" -eq 0 ] || return "$code"
  say "$title: $((SECONDS - start)) s"
}

essence() { # the line of the log that says what went wrong
  local line
  line=$(awk '/fatal( error)?: |No space left|: not found/ {print; exit}' "$LOG")
  [ -n "$line" ] || line=$(awk '/backend returned an error|subprocess-exited|generation-failed/ {next}
    /(^|: )error: |Error: |^ERROR: / {print; exit}' "$LOG")
  [ -n "$line" ] || line=$(tail -n 1 "$LOG")
  case $line in *Killed*) line="$line; out of memory: try MAX_JOBS=1" ;; esac
  printf '%s' "${line#"${line%%[![:space:]]*}"}" # without the indentation
}

install() { # install [OPTIONS] WHAT...: with uv; with pip where uv fails, whose settings it ignores
  # Compiled once: the first start of every program would take ten seconds, each time where Python
  # is told to write no bytecode.
  "$VENV/bin/python" -m uv pip install --compile-bytecode --python "$VENV/bin/python" "$@" ||
    "$VENV/bin/python" -m pip install "$@"
}

install_detectron2() { # by upstream's own command; sets PROBLEM
  local source=$DETECTRON2 copy="" without_cuda=""
  PROBLEM=$(cuda_problem "$VENV/bin/python")
  if [ -n "$PROBLEM" ]; then
    [ "$FORCE_CUDA" != 1 ] || return 0
    warn "$PROBLEM Compiling without it."
    without_cuda=CUDA_VISIBLE_DEVICES= # torch sees no GPU, so setup.py leaves those sources out
  fi
  if [ -d "$source" ]; then # built in a copy, so that the checkout stays as it is
    copy=$(mktemp -d)
    tar -C "$source" --exclude=.git --exclude=./build -cf - . | tar -C "$copy" -xf -
    source=$copy
  fi
  # After torch, and never from a cache: a cached wheel may have been compiled for another torch.
  # Python's own flags ask for debug symbols, which take a third of the time.
  if run_logged "compiling Detectron2" env $without_cuda \
    CFLAGS="-g0 ${CFLAGS:-}" CXXFLAGS="-g0 ${CXXFLAGS:-}" "$VENV/bin/python" -m pip install \
    --no-build-isolation --no-deps --no-cache-dir --force-reinstall "$source"; then
    import_problem "$VENV/bin/python"
  else
    PROBLEM="Detectron2 could not be built: $(essence) (whole log: $LOG)."
  fi
  [ -z "$copy" ] || rm -rf "$copy"
}

import_problem() { # import_problem PYTHON: sets PROBLEM unless Detectron2 can be used
  local error
  PROBLEM=
  error=$("$1" -W ignore -c 'import detectron2.engine, detectron2.modeling' 2>&1) ||
    PROBLEM="Detectron2 cannot be imported by $1 ($(printf '%s\n' "$error" | tail -n 1))."
}

missing_modules() { # missing_modules PYTHON NAME...
  "$1" -c 'import importlib.util as u, sys
print(*[n for n in sys.argv[1:] if u.find_spec(n) is None])' "${@:2}"
}

finish() { # finish PYTHON PROBLEM
  mkdir -p "$ROOT/build"
  printf 'PY=%q\nWITHOUT_DETECTRON2=%q\n' "$1" "$2" >"$ROOT/build/env.sh"
  [ -z "$2" ] || [ "$REQUIRE_DETECTRON2" = 0 ] || exit 1
  exit 0
}

use_existing() { # use_existing PYTHON
  local missing
  [ -n "$(version_of "$1")" ] || die "PYTHON=$1 cannot be run."
  missing=$(missing_modules "$1" torch torchvision cv2 pycocotools fvcore)
  [ -z "$missing" ] || die "PYTHON=$1 lacks: $missing. Install requirements.txt into it, or leave" \
    "PYTHON unset and an environment is made here."
  missing=$(missing_modules "$1" pytest ruff mypy)
  [ -z "$missing" ] || warn "PYTHON=$1 lacks: $missing (in requirements-dev.txt; for tests, lint)."
  import_problem "$1"
  [ -z "$PROBLEM" ] || warn "$PROBLEM" "Install it: $1 -m pip install --no-build-isolation" \
    "--no-deps --no-cache-dir '$DETECTRON2'"
  finish "$1" "$PROBLEM"
}

key() { # changes whenever the environment has to be made again
  { echo "$ROOT $DETECTRON2" && cat "$ROOT"/requirements*.txt; } | cksum
}

suitable() { # suitable PYTHON: has Detectron2 and all that the demo and the tests need
  "$1" -W ignore -c 'import detectron2.engine, torchvision, pycocotools, pytest' 2>/dev/null
}

make_venv() {
  local start=$SECONDS
  if [ -d "$VENV" ] && [ "$(minor_of "$(version_of "$VENV/bin/python")")" -lt 11 ]; then
    die "$VENV exists but holds no Python 3.11 or newer. Remove it, or set VENV=/another/path."
  fi
  find_detectron2_problem "$BASE_PYTHON"
  if [ -n "$PROBLEM" ]; then
    [ "$REQUIRE_DETECTRON2" = 0 ] || die "$PROBLEM"
    warn "$PROBLEM Going on without Detectron2."
  fi
  if [ "$(cat "$VENV/.stamp" 2>/dev/null)" != "$(key) rest" ]; then
    mkdir -p "$ROOT/build"
    [ -d "$VENV" ] || run_logged "$VENV" "$BASE_PYTHON" -m venv "$VENV"
    run_logged "uv" "$VENV/bin/python" -m pip install -q "$UV" || warn "no uv: $(essence)"
    run_logged "torch and the rest of requirements-dev.txt" \
      install -r "$ROOT/requirements-dev.txt" ||
      die "the requirements could not be installed: $(essence) (whole log: $LOG)"
    run_logged "relation_heads, editable, and trackers" \
      install --no-build-isolation --no-deps -e "$ROOT" "${TRACKERS[@]}" ||
      die "relation_heads and trackers could not be installed: $(essence) (whole log: $LOG)"
    echo "$(key) rest" >"$VENV/.stamp"
  fi
  if [ -z "$PROBLEM" ]; then
    say "compiling Detectron2 takes about a minute on two cores (log: $LOG)"
    install_detectron2
    rm -f "$FAILED"
    if [ -z "$PROBLEM" ]; then
      key >"$VENV/.stamp"
      if [ "$DETECTRON2" = "$UPSTREAM" ]; then rm -f "$CHOSEN"; else echo "$DETECTRON2" >"$CHOSEN"; fi
    else
      warn "$PROBLEM"
      { key && echo "$PROBLEM"; } >"$FAILED"
    fi
  fi
  say "$VENV is ready${PROBLEM:+, without Detectron2}: $((SECONDS - start)) s in all"
  finish "$VENV/bin/python" "$PROBLEM"
}

main() {
  trap '[ -z "$CHILD" ] || kill -- "-$CHILD" 2>/dev/null' EXIT
  trap 'exit 130' INT TERM
  case ${1:-} in
    --help | -h) usage && exit 0 ;;
    --check | --retry | "") ;;
    *) die "unknown option $1; see tools/setup_env.sh --help" ;;
  esac
  [ -z "$PYTHON" ] || use_existing "$PYTHON"
  if [ "${1:-}" != --check ]; then
    [ "$(cat "$VENV/.stamp" 2>/dev/null)" != "$(key)" ] || finish "$VENV/bin/python" ""
    if [ "${1:-}$REQUIRE_DETECTRON2" = 0 ] && grep -qsxF "$(key)" "$FAILED"; then
      finish "$VENV/bin/python" "$(tail -n 1 "$FAILED")" # a minute of compiling, not every time
    fi
    if [ ! -d "$VENV" ] && suitable python3; then
      say "using $(command -v python3), which has Detectron2; VENV or PYTHON choose another."
      finish "$(command -v python3)" ""
    fi
  fi
  choose_base_python
  for PROBLEM in "$(venv_problem "$BASE_PYTHON")" "$(disk_problem)"; do
    [ -z "$PROBLEM" ] || die "$PROBLEM"
  done
  [ "${1:-}" = --check ] || make_venv
  find_detectron2_problem "$BASE_PYTHON"
  [ -z "$PROBLEM" ] || die "$PROBLEM"
  say "nothing is in the way: $BASE_PYTHON, $DETECTRON2"
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then main "$@"; fi
