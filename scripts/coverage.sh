#!/usr/bin/env bash
# Line and branch coverage of the Python part and line coverage of the Cython part.
#
# Usage: scripts/coverage.sh [PYTEST ARGUMENTS]
#
# Builds the working tree with line tracing in build/coverage, in an environment of its own, runs
# the tests there and prints both tables. The environment is kept for the next run. PYTHON chooses
# the interpreter (python3 by default).
#
# Tracing makes the compiled code many times slower. Tests of the kernels in C alone, of memory, and
# of parity on further instruction sets are left out: they cover nothing more here.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$root/build/coverage
mkdir -p "$build"

# The sources as they are now, without what earlier builds left in the checkout.
rm -rf "$build/source"
mkdir "$build/source"
(cd "$root" && git ls-files -z --cached --others --exclude-standard |
  xargs -0 sh -c 'for name; do [ -e "$name" ] && printf "%s\0" "$name"; done' sh |
  tar --null --files-from=- --create --file=-) | tar --extract --file=- --directory="$build/source"
cd "$build/source"

[ -x "$build/venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$build/venv"
bin=$build/venv/bin
"$bin/pip" install --quiet --disable-pip-version-check \
  "setuptools>=77" "cython>=3.1,<3.3" "coverage[toml]>=7.10" "pytest>=8" "hypothesis>=6.100"
# In place: the plugin of Cython finds the generated C next to the sources.
POCKET_TTS_CY_COVERAGE=1 "$bin/pip" install --quiet --disable-pip-version-check \
  --no-build-isolation --editable .

# Plugins need the C tracer. Child processes, such as the command line's, are measured as well.
status=0
"$bin/coverage" erase
COVERAGE_CORE=ctrace "$bin/coverage" run --module pytest -q \
  --ignore=tests/test_c_kernels.py --ignore=tests/test_memory.py \
  --deselect=tests/test_parity.py::test_parity_on_other_isa "$@" || status=$?
"$bin/coverage" combine --quiet
echo
echo "Python, lines and branches:"
"$bin/coverage" report --include='pocket_tts_cy/*.py'
echo
echo "Cython, lines:"
"$bin/coverage" report --include='pocket_tts_cy/*.pyx'
exit "$status"
