#!/bin/bash
# The benchmarks that need a GPU, in order, each in a few minutes, on a machine with Python, torch and no network.
#
#     benchmarks/gpu.sh WHEELS [TORCH_SIM_PYTHON]
#
# WHEELS is a folder with surveyor's wheel and those of its extras `mace` and `xtb`, made where there is a network:
#
#     pip wheel --wheel-dir WHEELS --constraint constraints.txt ".[mace,xtb]"
#
# The packages go into an environment of their own that sees the torch of the machine. TORCH_SIM_PYTHON is an
# interpreter with torch-sim (0.6 or later) and mace-torch, for comparison. A benchmark that fails does not stop the next.
set -uo pipefail

wheels=$(realpath "${1:?give the folder of wheels}")
torch_sim=()
[ $# -lt 2 ] || torch_sim=(--torch-sim "$2")
here=$(dirname "$(realpath "$0")")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv --system-site-packages "$work/environment" || exit 1
python="$work/environment/bin/python"
"$python" -m pip install --quiet --no-index --find-links "$wheels" "surveyor[mace,xtb]" || exit 1
"$python" -c 'import torch; print(torch.__version__, torch.cuda.get_device_name())' || exit 1

failed=0
run() {
    echo "== $*"
    timeout 240 "$python" "$@" || { echo "FAILED with status $?: $*"; failed=1; }
}

run "$here/walkers.py" --system molecule --walkers 64 --steps 100 --ase-steps 5 --device cuda "${torch_sim[@]}"
run "$here/walkers.py" --system bulk --walkers 64 --steps 50 --ase-steps 5 --device cuda "${torch_sim[@]}"
for precision in float64 float32; do
    run "$here/evaluate.py" --device cuda --structures 2000 --precision "$precision"
done
run "$here/halves.py" --launches 300
run "$here/training.py" --device cuda --structures 100 --channels 64 --max-L 1 --epochs 10 --rounds 2
for system in ethanol copper-gold; do
    run "$here/update.py" --systems "$system" --device cuda --processes 3 --batch-size 10
done
exit $failed
