#!/usr/bin/env bash
# `make demo`: an ordinary user traces bash with Debian's own bashreadline.
# usage: demo.sh BPFTIME-BINARY
# Fails unless the tool prints the rows that it prints under the kernel.
set -euo pipefail

user=bpftime-demo
dir=$(mktemp -d /tmp/bpftime-demo-XXXXXX)
created=
tool=

clean_up() {
	exec 3>&- || true
	[ -z "$tool" ] || kill -9 "$tool" 2>/dev/null || true
	wait 2>/dev/null || true
	[ -z "$created" ] || userdel --remove "$user" 2>/dev/null || true
	rm -rf "$dir"
}
trap clean_up EXIT

chmod 755 "$dir"
mkdir "$dir/bin"
install -m 755 "$1" "$dir/bin/bpftime"
mkfifo "$dir/keys"
touch "$dir/screen"

as_user=(env)
if [ "$(id -u)" = 0 ]; then
	if ! id "$user" >/dev/null 2>&1; then
		useradd --create-home --shell /bin/bash "$user"
		created=yes
	fi
	chown "$user" "$dir/screen" "$dir/keys"
	as_user=(setpriv "--reuid=$user" "--regid=$user" --init-groups --inh-caps=-all --bounding-set=-all --reset-env)
fi
path="$dir/bin:/usr/bin:/bin:/usr/sbin:/sbin"

echo "user:       $("${as_user[@]}" id -un), effective capabilities $("${as_user[@]}" sed -n 's/^CapEff:\t//p' /proc/self/status)"
echo "kernel BPF: unprivileged_bpf_disabled = $(cat /proc/sys/kernel/unprivileged_bpf_disabled 2>/dev/null || echo '?'), tool: $(command -v bashreadline || PATH=$path command -v bashreadline)"
echo
echo "terminal 1 \$ bpftime load bashreadline"
echo "terminal 2 \$ bpftime start bash --norc -i"
echo

# A terminal for the tool, as a person has it; what is written to `keys` is typed there.
# Job control keeps the shell from having background commands ignore Ctrl-C.
set -m
"${as_user[@]}" env "PATH=$path" script -q -f -c 'exec bpftime load bashreadline' "$dir/screen" <"$dir/keys" >/dev/null 2>&1 &
tool=$!
set +m
exec 3>"$dir/keys"

# wait_for WHAT PATTERN: until the tool's screen shows PATTERN.
wait_for() {
	local deadline=$((SECONDS + 15))
	until grep -q "$2" "$dir/screen"; do
		if [ $SECONDS -ge $deadline ] || ! kill -0 "$tool" 2>/dev/null; then
			echo "FAILED: $1 did not come. The tool's screen:" >&2
			cat "$dir/screen" >&2
			exit 1
		fi
		sleep 0.05
	done
}
wait_for "the tool's header" 'TIME  *PID  *COMMAND'

printf 'echo hello from an ordinary user\nexit\n' |
	(cd / && "${as_user[@]}" env "PATH=$path" "PS1=terminal 2 | bash\$ " bpftime start bash --norc -i) 2>&1 |
	grep -v -e 'cannot set terminal process group' -e 'no job control' | sed 's/^/terminal 2 | /;s/^terminal 2 | terminal 2/terminal 2/'

wait_for "the row of the first command" 'echo hello from an ordinary user'
wait_for "the row of the second command" '[0-9]  *exit'
printf '\003' >&3
deadline=$((SECONDS + 15))
while kill -0 "$tool" 2>/dev/null; do
	if [ $SECONDS -ge $deadline ]; then
		echo "FAILED: the tool did not end on Ctrl-C" >&2
		exit 1
	fi
	sleep 0.05
done
wait "$tool" || true
tool=
echo
tr -d '\r' <"$dir/screen" | grep -v -e '^Script ' -e '^\^C$' -e '^$' | sed 's/^/terminal 1 | /'

rows=$(tr -d '\r' <"$dir/screen" | awk '$2 ~ /^[0-9]+$/ { $1 = $2 = ""; sub(/^ +/, ""); print }')
[ "$rows" = "$(printf 'echo hello from an ordinary user\nexit')" ] || {
	echo "FAILED: the tool printed other rows than expected" >&2
	exit 1
}
echo
echo "The demo passed: an unmodified eBPF tool, no root, no kernel BPF."
