"""probe_lines.py FILE GROUP: writes lines to uprobe_events, each by a call of its
own, and prints what each was answered; then the group's events, their files, and
what is left when they are gone. GROUP is nobody else's."""
import errno
import os
import re
import sys

FILE, GROUP = sys.argv[1:3]
TRACING = "/sys/kernel/tracing"
EVENTS = f"{TRACING}/uprobe_events"

LINES = """
p:G/a F:0x10
p:G/a F:0x10
p:G/a F:0x20
p:G/a F:0x30 x=%ax
r:G/a F:0x40
p:G/b F:0x50 a=%di b=+0(%si):string c=%ax:x8 d=%ax:char e=+4(%di):u8[4]
p:G/c F:0x50 f=+0(+8(%di)):string[3] g=%ax:s16 %ax:b3@4/32 h=+u8(%si) $comm
r:G/d F:0x60 $retval v=$retval:s32 s=+0($retval):ustring
p:G/e F:0x70(0x80)
p:G/e2 F:0x70
p:G/e3 F:0x70(0x80) $stack $stack0 $stack3:u16
p:G/f F:0x90%return
p:G/g F:0x90%exit
p:G/h F:0x90 @0x1234 @+16 @+0x20:u32 \\4 \\-5:s8 \\"text" t=\\"more":string
p:G/i F:011
p:G/j F:+0x10
p:G/k F:0xfffffffffffffffff
p:G/l F:12zz
p:G/m F
p:G/n F:
p:G/o F:x10
p:G/p /nonexistent:0x10
p:G/q /usr:0x10
p:G/r relative:0x10
p:G/s F:0x10 a=%di a=%si
p:G/t F:0x10 common_pid=%di
p:G/u F:0x10 1a=%di
p:G/v F:0x10 =%di
p:G/w F:0x10 a=
p:G/x F:0x10 a=%nope
p:G/y F:0x10 a=$nope
p:G/z F:0x10 $retval
p:G/A F:0x10 $arg1
p:G/B F:0x10 a=di
p:G/C F:0x10 a=%di:u7
p:G/D F:0x10 a=%di:symbol
p:G/E F:0x10 a=%di:string
p:G/F1 F:0x10 a=+0(%di
p:G/G1 F:0x10 a=+0%di
p:G/H F:0x10 a=+z(%di)
p:G/I F:0x10 a=+0(%di):u8[0]
p:G/J F:0x10 a=+0(%di):u8[65]
p:G/K F:0x10 a=+0(%di):u8[64]
p:G/L F:0x10 a=+0(%di):u8[4
p:G/M F:0x10 a=%di:u8[4]
p:G/N F:0x10 a=%di:b8@60/64
p:G/O F:0x10 a=%di:b0@4/64 
p:G/P F:0x10 a=$comm:u8
p:G/Q F:0x10 a=$comm:string
p:G/R F:0x10 a=+0($comm)
p:G/S F:0x10 a=@symbol
p:G/T F:0x10 a=\\q
p:G/U F:0x10 a=+-8(%di) b=-8(%di):x32 c=-u8(%di)
p:G/V F:0x10 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa=%di
p:G/W F:0x10 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa=%di
p:G/X F:0x10 a=+0(+0(+0(+0(+0(+0(+0(+0(+0(+0(+0(+0(%di))))))))))))
p:G/Y F:0x10 a=+0(+0(+0(+0(+0(+0(+0(+0(+0(+0(+0(+0(+0(+0(%di))))))))))))))
p:G/Z F:0x10 a=+0(+0(+0(+0(+0(+0(+0(+0(+0(+0(+0(+0(+0(%di))))))))))))):u8
p:G/9 F:0x10
p:G/a-b F:0x10
p:G-1/ab F:0x1a
p:1G/ab F:0x1a
p:/ab F:0x1a
p:G.dot F:0x1b
p:G/ F:0x1c
r:G/ F:0x1d
p: F:0x10
p:G/nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn F:0x10
p:G/nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn F:0x1e
p:syscalls/sys_enter_openat F:0x10
p
r
x:G/a F:0x10
 p:G/aa F:0x1f
# a comment

p:G/ab F:0x21 # and another
p:G/ac F:0x10(
p:G/ac F:0x10(0x20
p:G/ac F:0x10(0x20)z
p:G/ac F:0x10(zz)
p:G/ac F:0x22(0x20)%return
p:G/multi F:0x23 a=%di
p:G/multi F:0x24 a=%si
p:G/multi F:0x24 a=%si
p:G/multi F:0x24 a=%dx
p:G/multi F:0x25 a=%dx:u8
p:G/multi F:0x25 b=%dx
-:G/nothing
-:nothing_of_this_name
-:
-
-G/a
-:G/multi F:0x24
-:G/multi F:0x0000000000000024 a=%dx
-:G/multi F:0x0000000000000024 a=%di
 -:G/a
""".strip("\n").split("\n")


def plain(line):
    return line.replace(FILE, "F").replace(GROUP, "G")


def write(text):
    # Not open(), which seeks to the end.
    fd = os.open(EVENTS, os.O_WRONLY | os.O_APPEND)
    try:
        return f"wrote {os.write(fd, text.encode())}"
    except OSError as error:
        return errno.errorcode[error.errno]
    finally:
        os.close(fd)


def listed():
    with open(EVENTS) as file:
        return [line for line in file.read().split("\n") if GROUP in line]


for line in LINES:
    # Paths have other lengths elsewhere.
    text = re.sub(r"\bG\b", GROUP, line).replace(" F", " " + FILE)
    answer = write(text).replace(f"wrote {len(text)}", "all")
    print(f"{line}\n\t{answer}")

print("\n".join(plain(line) for line in listed()))
events = f"{TRACING}/events/{GROUP}"
for name in sorted(os.listdir(events)):
    if os.path.isdir(f"{events}/{name}"):
        print(name, sorted(set(os.listdir(f"{events}/{name}")) - {"trigger", "hist", "inject"}))
        with open(f"{events}/{name}/format") as file:
            print(re.sub("ID: .*", "ID", file.read()))
        with open(f"{events}/{name}/id") as file:
            id = file.read()
        print(id.endswith("\n") and int(id) > 0, open(f"{events}/{name}/enable").read())

# Several lines in one write: those before the wrong one count.
three = f"p:{GROUP}/one {FILE}:0x100\np:{GROUP}/two {FILE}:0x110\nwrong\np:{GROUP}/four {FILE}:0x120\n"
print(write(three), [line.split()[0] for line in map(plain, listed()) if "/one" in line or "/two" in line or "four" in line])
print(write(f"-:{GROUP}/one\n-:{GROUP}/two") == f"wrote {2 * len(GROUP) + 13}")
print(write(f"p:{GROUP}/long {FILE}:0x100 " + " " * 4096))

groups = {line.split("/")[0][2:] for line in listed()}
print([(plain(group), write(f"-:{group}/").split()[0]) for group in sorted(groups)])
print(listed(), [os.path.exists(f"{TRACING}/events/{group}") for group in sorted(groups)])
