#!/bin/sh
# pip install -e "$1" into $PYTHON's environment. On Linux x86-64 without an NVIDIA card, torch's CPU build is taken
# where it can be had (200 MB instead of several GB); everything else is a plain pip install.
set -eu
pip="$PYTHON -m pip --disable-pip-version-check"
torch=$(sed -n 's/.*"\(torch>=[^"]*\)".*/\1/p' pyproject.toml | head -n 1)
if ! $PYTHON -c 'import torch' 2>/dev/null; then
  if [ "$(uname -sm)" = "Linux x86_64" ] && ! command -v nvidia-smi >/dev/null 2>&1 \
     && ! $pip install --quiet --no-index --no-deps --dry-run "$torch" >/dev/null 2>&1; then
    $pip install --quiet --retries 1 --timeout 10 --index-url https://download.pytorch.org/whl/cpu "$torch" \
      >/dev/null 2>&1 || echo "torch's CPU-only index is not reachable; taking the default build"
  fi
fi
$pip install --quiet -e "$1"
