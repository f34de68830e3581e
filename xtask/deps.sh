#!/usr/bin/env bash
# Installs the Debian packages that are missing for the sets named as
# arguments: build, demo, test, bench-clients, bench-vm. Quick and silent when nothing is missing.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"

missing=()
# need COMMAND-OR-FILE PACKAGE…: the first package that apt knows is taken.
need() {
	local what=$1
	shift
	case $what in
	/*) compgen -G "$what" >/dev/null && return ;;
	*) command -v "$what" >/dev/null && return ;;
	esac
	missing+=("$*")
}

for set in "$@"; do
	case $set in
	build)
		need gcc gcc
		need '/usr/include/stdlib.h' libc6-dev
		need make make
		need pkg-config pkg-config pkgconf
		need /usr/include/libelf.h libelf-dev
		need /usr/include/zlib.h zlib1g-dev
		;;
	demo)
		need bashreadline libbpf-tools
		need script bsdutils
		need setpriv util-linux
		need useradd passwd
		;;
	test)
		need clang-19 clang-19 clang
		need '/usr/lib/llvm-*/lib/libclang[-.][0-9s]*' libclang1-19 libclang1
		need /usr/include/bpf/libbpf.h libbpf-dev
		need /usr/include/linux/bpf.h linux-libc-dev
		need go golang-go
		need /usr/share/gocode/src/github.com/cilium/ebpf/prog.go golang-github-cilium-ebpf-dev
		need ip iproute2
		need bpftool bpftool
		need valgrind valgrind
		need bashreadline libbpf-tools
		need bpftrace bpftrace
		need funccount-bpfcc bpfcc-tools
		need g++ g++
		need gdb gdb
		need strace strace
		need perf linux-perf
		need unshare util-linux
		need ip iproute2
		need wasm-ld-19 lld-19 lld
		need /usr/include/wasm32-wasi/stdio.h wasi-libc
		need '/usr/lib/llvm-*/lib/clang/*/lib/wasi/libclang_rt.builtins-wasm32.a' libclang-rt-19-dev-wasm32 libclang-rt-dev-wasm32
		need setcap libcap2-bin
		need sqlite3 sqlite3
		need openssl openssl
		need docker-registry docker-registry
		need curl curl
		need jq jq
		need zstd zstd
		need '/usr/lib/llvm-*/lib/libunwind.so.1' libunwind-19 libunwind-14
		need /usr/include/boost/context/fiber.hpp libboost-context-dev
		need redis-server redis-server
		need redis-benchmark redis-tools
		python3 -c 'import test.test_re' 2>/dev/null || missing+=(libpython3-testsuite)
		need musl-gcc musl-tools
		need '/usr/bin/wasm-ld*' lld-19 lld
		need /usr/include/wasm32-wasi/stdio.h wasi-libc
		need '/usr/lib/llvm-*/lib/clang/*/lib/wasi/*.a' libclang-rt-19-dev-wasm32 libclang-rt-dev-wasm32
		need '/usr/lib*/gcc/x86_64-linux-gnu/*/32/libgcc.a' gcc-multilib
		;;
	bench-clients)
		need redis-server redis-server
		need redis-benchmark redis-tools
		need nginx nginx-light
		need wrk wrk
		need openssl openssl
		;;
	bench-vm)
		need clang-19 clang-19 clang
		;;
	*)
		echo "deps.sh: unknown set $set" >&2
		exit 2
		;;
	esac
done
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" != 0 ]; then
	command -v sudo >/dev/null || {
		echo "missing packages: ${missing[*]}; install them, or sudo, and run this again" >&2
		exit 1
	}
	as_root=(sudo)
fi
echo "installing what is missing: ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
install() {
	"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get "$@" >"$log" 2>&1 || {
		cat "$log" >&2
		return 1
	}
}
install update -q
packages=()
for choices in "${missing[@]}"; do
	chosen=
	for package in $choices; do
		if [ -n "$(apt-cache madison "$package")" ]; then
			chosen=$package
			break
		fi
	done
	[ -n "$chosen" ] || {
		echo "apt knows none of: $choices" >&2
		exit 1
	}
	packages+=("$chosen")
done
install install -q -y --no-install-recommends "${packages[@]}"
