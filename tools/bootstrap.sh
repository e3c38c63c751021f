#!/bin/bash
# Prepares a fresh Debian 12 for everything in the Makefile: packages, uv, .venv.
# Idempotent, and quick when nothing is missing. Exit 2: this machine cannot do it.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*" >&2; }
refuse() { say "$*"; exit 2; }

[[ $(uname -s) == Linux && $(uname -m) == x86_64 ]] ||
    refuse "needs Linux on x86-64, this is $(uname -s) on $(uname -m)"
command -v apt-get dpkg-query >/dev/null || refuse "needs Debian 12: there is no apt here"
[[ $EUID -eq 0 ]] || refuse "needs root, for packages, network namespaces and VMs: run it with sudo"

packages=(
    # the lab: kernels, their root file system, their network
    user-mode-linux mmdebstrap debian-archive-keyring e2fsprogs iproute2 iputils-ping openssh-client
    # the matrix: distributions' own kernels, emulated
    qemu-system-x86 patchelf
    # the agent on this machine, for the kernel tests
    iptables ipset nftables procps
    # what the tests hurt, each a private instance of theirs
    postgresql redis-server memcached
    # Python as in the VMs, and what python-iptables' C extension is compiled with
    python3 python3-venv python3-dev gcc libc6-dev
    ca-certificates make
    # with those databases, what the probes' tests run private instances of
    prometheus prometheus-alertmanager etcd-server
)
missing=()
for package in "${packages[@]}"; do
    [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] ||
        missing+=("$package")
done
if ((${#missing[@]})); then
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    # Nobody needs their services here: none is started by being installed, nor at a boot.
    if [[ ! -e /usr/sbin/policy-rc.d ]]; then
        printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
        chmod 755 /usr/sbin/policy-rc.d
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    apt-get update -qq || refuse "apt-get update failed"
    apt-get install -qq --no-install-recommends "${missing[@]}" >/dev/null ||
        refuse "apt-get could not install: ${missing[*]}"
    for service in postgresql redis-server memcached prometheus prometheus-alertmanager etcd-server; do
        if command -v systemctl >/dev/null && [[ " ${missing[*]} " == *" $service "* ]]; then
            systemctl --quiet disable "${service/etcd-server/etcd}"
        fi
    done
fi

export UV_PYTHON=/usr/bin/python3 UV_PYTHON_DOWNLOADS=never
$UV_PYTHON -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' ||
    refuse "needs Debian 12's Python 3.11 as in its VMs, $UV_PYTHON is $($UV_PYTHON -V)"

if ! uv=$(command -v uv); then
    uv=.lab/tools/bin/uv
    if [[ ! -x $uv ]]; then
        say "installing uv into .lab/tools"
        python3 -m venv .lab/tools
        .lab/tools/bin/pip install --quiet --disable-pip-version-check uv
    fi
fi
[[ -d .venv ]] || say "installing the Python environment into .venv from uv.lock"
"$uv" sync --quiet --frozen --all-extras
