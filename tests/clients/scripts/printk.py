"""Prints at calls of `rounds`; shows trace_pipe if the second argument is `raw`."""
import sys
import time
from bcc import BPF
b = BPF(text=r'''
#include <uapi/linux/ptrace.h>
int at_add(struct pt_regs *ctx) {
    char text[16] = {};
    bpf_probe_read_user_str(text, sizeof(text), (void *)PT_REGS_PARM2(ctx));
    bpf_trace_printk("add %d %s %ld", (int)PT_REGS_PARM1(ctx), text, PT_REGS_PARM3(ctx));
    return 0;
}
int at_leak(struct pt_regs *ctx) {
    bpf_trace_printk("leak %x|%5d|%-5u|\n", (u32)PT_REGS_PARM1(ctx), -7, 7);
    return 0;
}
''')
b.attach_uprobe(name=sys.argv[1], sym="rounds_add", fn_name="at_add")
b.attach_uprobe(name=sys.argv[1], sym="rounds_leak", fn_name="at_leak")
print("ready", flush=True)
while sys.argv[2] == "raw":
    print(b.trace_readline().decode(), flush=True)
time.sleep(60)
