# A process outside: says what there is of it to be got at, waits, and says what
# has become of it. Whatever an attempt inside did to it shows in the second line.
import ctypes, json, os, resource, signal, socket, sys, time

LIBC = ctypes.CDLL(None, use_errno=True)
KEY = os.getpid() + 0x61670000
NAME = f'agentfs-witness-{os.getpid()}'
signals = []


def heard(number, _):
    signals.append(signal.Signals(number).name)


for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
    try:
        signal.signal(number, heard)
    except OSError:
        pass  # Kept by the C library.

memory = ctypes.create_string_buffer(b'precious')
shared = LIBC.shmget(KEY, 4096, 0o1600)
LIBC.shmat.restype = ctypes.c_void_p
attached = LIBC.shmat(shared, None, 0)
ctypes.memmove(attached, b'precious', 8)
with open(f'/dev/shm/{NAME}', 'w') as posix:
    posix.write('precious')
queue = LIBC.syscall(240, NAME.encode(), os.O_CREAT | os.O_RDWR, 0o600, None)
ring = LIBC.syscall(248, b'user', NAME.encode(), b'precious', 8, -4)
# Of a socket that was bound like this the kernel does not tell where it is.
os.chdir(sys.argv[2])
service = socket.socket(socket.AF_UNIX)
service.bind('relative')
service.listen()
service.setblocking(False)


def visitors():
    try:
        service.accept()
        return 'somebody'
    except BlockingIOError:
        return 'nobody'


def state():
    def text(path):
        return open(path).read()

    return {
        'memory': memory.value.decode(),
        'shared': ctypes.string_at(attached, 8).decode(),
        'posix': text(f'/dev/shm/{NAME}'),
        'nice': os.getpriority(os.PRIO_PROCESS, 0),
        'ioprio': LIBC.syscall(252, 1, 0),
        'processors': sorted(os.sched_getaffinity(0)),
        'open files': resource.getrlimit(resource.RLIMIT_NOFILE),
        'oom': text('/proc/self/oom_score_adj'),
        'host name': os.uname().nodename,
        'traced by': [line for line in text('/proc/self/status').split('\n') if 'Tracer' in line],
        'control groups': text('/proc/self/cgroup'),
        'signals': signals,
        'connected': visitors(),
    }


print(json.dumps({
    'address': ctypes.addressof(memory),
    'shared': KEY,
    'name': NAME,
    'queue': queue >= 0,
    'ring': ring >= 0,
    'state': state(),
}), flush=True)
end = sys.argv[1]
until = time.monotonic() + 100
while not os.path.exists(end) and time.monotonic() < until:
    time.sleep(0.02)
print(json.dumps(state()), flush=True)
LIBC.shmctl(shared, 0, None)
os.unlink(f'/dev/shm/{NAME}')
LIBC.syscall(241, NAME.encode())
if ring >= 0:
    LIBC.syscall(250, 9, ring, -4)
