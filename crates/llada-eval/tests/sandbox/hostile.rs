//! Programs that a harness must survive. Each prints BREACH where a wall gave way.

use std::path::Path;
use std::time::Duration;

use llada_eval::sandbox::{Limits, Program, Verdict};

/// Acts that must fail go through `attempt`.
const PRELUDE: &str = "
import os, sys, time, signal, socket, ctypes, threading
PARENT, CANARY = os.getppid(), {canary}
libc = ctypes.CDLL(None, use_errno=True)
def attempt(act):
    try:
        result = act()
    except (OSError, RuntimeError, ImportError, MemoryError):
        return
    if result != -1:
        print('BREACH', result, flush=True)
";

/// A hostile program and the verdict it must get.
pub(crate) struct Hostile {
    pub(crate) name: &'static str,
    pub(crate) verdict: Verdict,
    code: &'static str,
}

impl Hostile {
    /// The program, let loose on `canary`, a file that must stay as it is.
    pub(crate) fn program(&self, canary: &Path) -> Program {
        let prelude = PRELUDE.replace("{canary}", &format!("{canary:?}"));
        let limits = Limits {
            wall: Duration::from_secs(if self.verdict == Verdict::TimedOut {
                2
            } else {
                60
            }),
            cpu: Duration::from_secs(20),
            memory_bytes: 512 << 20,
            ..Limits::default()
        };
        Program {
            code: format!("{prelude}\n{}", self.code),
            stdin: String::new(),
            limits,
        }
    }
}

const fn hostile(name: &'static str, verdict: Verdict, code: &'static str) -> Hostile {
    Hostile {
        name,
        verdict,
        code,
    }
}

use Verdict::{Failed, MemoryExceeded, Passed, TimedOut};

pub(crate) const ALL: &[Hostile] = &[
    hostile("hangs in a loop", TimedOut, "while True: pass"),
    hostile("sleeps for ever", TimedOut, "while True: time.sleep(1000)"),
    hostile(
        "ignores every signal it can",
        TimedOut,
        "
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True: pass",
    ),
    hostile("hangs with all its files closed", TimedOut, "os.closerange(0, 64)\nwhile True: pass"),
    hostile("is a fork bomb", Passed, "for _ in range(100): attempt(os.fork)"),
    hostile(
        "forks by other names",
        Passed,
        "
import subprocess
attempt(lambda: subprocess.run(['/bin/sh', '-c', 'true']))
attempt(lambda: os.posix_spawn(sys.executable, [sys.executable, '-c', ''], {}))
attempt(libc.vfork)
attempt(lambda: libc.syscall(56, 17, 0, 0, 0, 0))   # clone without CLONE_THREAD
attempt(lambda: libc.syscall(435, 0, 0))            # clone3",
    ),
    hostile(
        "daemonises itself",
        Failed,
        "
attempt(os.setsid)
if os.fork(): os._exit(0)
os.setsid()
time.sleep(1000)",
    ),
    hostile("eats memory at once", MemoryExceeded, "bytearray(1 << 34)"),
    hostile("eats memory in pieces", MemoryExceeded, "kept = []\nwhile True: kept.append(bytearray(1 << 20))"),
    hostile(
        "starts threads without end",
        Failed,
        "
threading.stack_size(8 << 20)
while True: threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()",
    ),
    hostile("recurses without end", Failed, "def f(): return f()\nf()"),
    hostile(
        "recurses through the stack's end",
        Failed,
        "
sys.setrecursionlimit(1 << 30)
class C:
    def __repr__(self): return repr(self)
repr(C())",
    ),
    hostile(
        "changes a file of the user",
        Passed,
        "
attempt(lambda: open(CANARY).read())
attempt(lambda: open(CANARY, 'w'))
attempt(lambda: os.truncate(CANARY, 0))
attempt(lambda: os.remove(CANARY))
attempt(lambda: os.rename(CANARY, CANARY + '.moved'))
attempt(lambda: os.rename(CANARY, 'stolen'))
attempt(lambda: os.chmod(CANARY, 0o777))
attempt(lambda: os.chown(CANARY, 12345, 12345))
attempt(lambda: os.utime(CANARY, (0, 0)))
attempt(lambda: os.link(CANARY, 'linked'))
attempt(lambda: os.setxattr(CANARY, 'user.x', b'x'))
attempt(lambda: os.mkdir(CANARY + '.dir'))
attempt(lambda: os.symlink('/', CANARY + '.link'))",
    ),
    hostile(
        "reads secrets",
        Passed,
        "
for path in ['/etc/shadow', '/etc/passwd', '/proc/1/environ', '/proc/self/mem', f'/proc/{PARENT}/maps']:
    attempt(lambda: open(path, 'rb').read(1))
for path in ['/', '/root', '/home', '/proc', os.path.dirname(CANARY)]:
    attempt(lambda: os.listdir(path))
attempt(lambda: {name for name in os.environ if 'KEY' in name or name == 'HOME'} or -1)",
    ),
    hostile(
        "writes files all over",
        Passed,
        "
for path in ['/x', '/usr/x', '/usr/lib/x', '/var/tmp/x', '/dev/shm/x', '/root/x', '../x', sys.prefix + '/x']:
    attempt(lambda: open(path, 'w'))
open('mine', 'w').write('works')
os.mkdir('dir'); os.rmdir('dir'); os.remove('mine')",
    ),
    hostile("writes one huge file", Failed, "with open('big', 'wb') as f:\n  while True: f.write(bytes(1 << 20))"),
    hostile(
        "uses the network",
        Passed,
        "
import urllib.request
for family in [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK]:
    attempt(lambda: socket.socket(family))
attempt(socket.socketpair)
attempt(lambda: socket.create_connection(('127.0.0.1', 22)))
attempt(lambda: urllib.request.urlopen('http://127.0.0.1/'))",
    ),
    hostile(
        "attacks its parent",
        Passed,
        "
import fcntl
for pid in [PARENT, 1, -1, 0, -PARENT]:
    for number in [0, signal.SIGTERM, signal.SIGKILL]:
        attempt(lambda: os.kill(pid, number))
attempt(lambda: libc.ptrace(16, PARENT, 0, 0))      # PTRACE_ATTACH
attempt(lambda: libc.syscall(310, PARENT, 0, 0, 0, 0, 0))
attempt(lambda: fcntl.fcntl(1, fcntl.F_SETOWN, PARENT))
attempt(lambda: os.setpriority(os.PRIO_PROCESS, PARENT, 19))
import resource
attempt(lambda: resource.prlimit(PARENT, resource.RLIMIT_NOFILE, (0, 0)))",
    ),
    hostile(
        "raises its own limits and rights",
        Passed,
        "
import resource
for what in [resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE]:
    try: resource.setrlimit(what, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)); print('BREACH', what)
    except (OSError, ValueError): pass
attempt(lambda: os.setuid(0))
attempt(lambda: libc.prctl(1, 0, 0, 0, 0))          # PR_SET_PDEATHSIG off
attempt(lambda: libc.mount(b'none', b'/tmp', b'tmpfs', 0, None))
attempt(lambda: libc.unshare(0x10000000))
attempt(lambda: os.chroot('.'))
attempt(lambda: libc.syscall(425, 8, 0))            # io_uring_setup",
    ),
    hostile("floods its output", TimedOut, "while True: os.write(1, b'x' * 65536); os.write(2, b'y' * 65536)"),
    hostile("becomes another program", Failed, "os.execv(sys.executable, [sys.executable, '-c', 'import os; os.fork()'])"),
    hostile("crashes", Failed, "ctypes.string_at(0)"),
    hostile("aborts", Failed, "os.abort()"),
    hostile("kills itself", Failed, "os.kill(os.getpid(), signal.SIGKILL)"),
    hostile("imitates a launcher", Failed, "print('sandbox refused: me', file=sys.stderr, flush=True); os._exit(125)"),
    hostile("leaves early", Failed, "sys.exit('nothing to see')"),
];
