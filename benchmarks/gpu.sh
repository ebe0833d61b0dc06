#!/bin/bash
# The benchmarks that need a GPU, in order, each in a few minutes, on a machine with Python, torch and no network.
#
#     benchmarks/gpu.sh WHEELS [TORCH_SIM_PYTHON]
#
# WHEELS is a folder with surveyor's wheel and those of its extras `mace` and `xtb`, made where there is a network, with
# the same version of Python; torch and its libraries are the machine's own, and need not be brought:
#
#     pip wheel --wheel-dir WHEELS --constraint constraints.txt ".[mace,xtb]"
#     rm -f WHEELS/{torch,nvidia_*,triton}-*.whl
#
# The packages go into an environment of their own that sees the torch of the machine. TORCH_SIM_PYTHON is an
# interpreter with torch-sim (0.6 or later) and mace-torch, for comparison. A benchmark that fails does not stop the
# next. If WHEELS also holds cuEquivariance and its kernels (wheels of `.[cuequivariance]` and
# `cuequivariance-ops-torch-cu12`, or for another CUDA), they are installed at the end, and what they change is measured
# again. With REHEARSAL=1, everything runs on a CPU at its smallest size, to try the wheels before a GPU is paid for.
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

if [ -z "${REHEARSAL:-}" ]; then
    device=(--device cuda)
    molecules=(--walkers 64 --steps 100 --ase-steps 5)
    cells=(--walkers 64 --steps 50 --ase-steps 3)
    evaluations=(--structures 2000 --in-loop 300)
    halves=()
    trainings=(--structures 100 --channels 64 --max-L 1 --epochs 6 --rounds 1)
    updates=(--processes 3 --batch-size 27 --update-epochs 20 30)
    "$python" -c 'import torch; print(torch.__version__, torch.cuda.get_device_name())' || exit 1
else
    device=(--device cpu)
    molecules=(--walkers 2 --steps 1)
    cells=(--walkers 2 --steps 1)
    evaluations=(--structures 4 --in-loop 2)
    halves=(--walkers 2 --steps 9)
    trainings=(--structures 8 --epochs 2 --rounds 1)
    updates=(--seeds 1 --labels 20 --new 10 --test 2 --epochs 2 --update-epochs 1)
fi

failed=0
run() {
    echo "== $*"
    timeout 240 "$python" "$@" || { echo "FAILED with status $?: $*"; failed=1; }
}

networks() {
    run "$here/walkers.py" --system molecule "${molecules[@]}" "${device[@]}" "${torch_sim[@]}"
    run "$here/walkers.py" --system bulk "${cells[@]}" "${device[@]}" "${torch_sim[@]}"
    for precision in float64 float32; do
        run "$here/evaluate.py" "${evaluations[@]}" "${device[@]}" --precision "$precision"
    done
    run "$here/training.py" "${trainings[@]}" "${device[@]}"
}

networks
run "$here/halves.py" --launches 300 "${halves[@]}"
for system in ethanol copper-gold; do
    run "$here/update.py" --systems "$system" "${updates[@]}" "${device[@]}"
done
kernels=("$wheels"/cuequivariance_ops_torch_*.whl)
if [ -e "${kernels[0]}" ]; then
    "$python" -m pip install --quiet --no-index --find-links "$wheels" "surveyor[cuequivariance]" "${kernels[@]}" || exit 1
    echo "== with cuEquivariance"
    networks
fi
exit $failed
