# What commands show of hosted events in tracefs; ids and dates are nobody's business.
cd /sys/kernel/tracing/events || exit 1
hosted="raw_syscalls/sys_enter raw_syscalls/sys_exit syscalls/sys_enter_openat sched/sched_process_fork"
pwd
stat -f -c %T /sys/kernel/tracing . raw_syscalls
for event in $hosted; do
	find "$event" ! -name trigger ! -name hist ! -name inject -printf '%p %y %s\n' | sed 's/ d .*/ d/; s/ f .*/ f/' | sort
	find "/sys/kernel/tracing/events/$event" -name format
	ls "$event" | grep -v '^trigger$'
	test -r "$event/id" && test -d "$event" && ! test -x "$event/id" && echo as it should be
	grep -v '^ID' "$event/format"
	cat "/sys/kernel/debug/tracing/events/$event/enable" "$event/filter"
done
grep -rl 'args\[6\]' raw_syscalls
echo raw_syscalls/*/id /sys/kernel/tracing/events/raw_syscalls/sys_*/format
cat nothing/of/this 2>&1
python3 - <<'END'
import glob, os
root = "/sys/kernel/tracing/events/raw_syscalls"
print(sorted(os.listdir(root)), [entry.is_dir() for entry in os.scandir(root + "/sys_exit") if entry.name == "id"])
print(sorted(glob.glob(root + "/*/format")), os.path.realpath(root + "/./sys_exit"))
fd = os.open(root + "/sys_exit/filter", os.O_RDONLY)
print(os.read(fd, 2), os.lseek(fd, 0, os.SEEK_SET), os.read(os.dup(fd), 100), os.get_inheritable(fd))
print(os.readlink(f"/proc/self/fd/{fd}"))
at = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
print(os.path.basename(os.readlink(f"/proc/self/fd/{at}")), open("sys_enter/format", opener=lambda p, f: os.open(p, f, dir_fd=at)).readline())
END
