# Tries one act per wall. An act that succeeds is a wall that does not stand.
import os, socket, sys, tempfile

def forbidden(name, act):
    try:
        act()
    except OSError:
        return
    sys.exit(f"{name} is not enforced")

def fork():
    if os.fork() == 0:
        os._exit(0)

forbidden("landlock (reading)", lambda: os.listdir("/"))
forbidden("landlock (writing)", lambda: open("/var/tmp/llada-sandbox-check", "x"))
forbidden("seccomp (sockets)", lambda: socket.socket())
forbidden("seccomp (processes)", fork)
forbidden("seccomp (signals)", lambda: os.kill(os.getppid(), 0))

try:
    bytearray(1 << 40)
    sys.exit("the memory limit is not enforced")
except MemoryError:
    pass

with tempfile.TemporaryFile() as file:  # the private directory must work
    file.write(b"x")
