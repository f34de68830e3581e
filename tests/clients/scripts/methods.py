# Waits for a line, calls methods and collects garbage, each a known number of
# times, and waits for the end of its input.
import gc
import os
import sys

gc.disable()


def callee(number):
    return number + 1


def caller(number):
    return callee(number)


print("pid", os.getpid(), flush=True)
sys.stdin.readline()
for number in range(7):
    caller(number)
for _ in range(3):
    gc.collect()
print("done", flush=True)
sys.stdin.read()
