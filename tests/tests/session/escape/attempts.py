# What every attempt can use. One at a time, each in a process of its own, so
# that what it does to itself ends with it. Prints a line for each:
# ALLOWED, REFUSED or MISSING (a tool; which is no refusal), and its name.
import ctypes, fcntl, glob, json, mmap, os, resource, signal, socket, stat, struct
import subprocess, sys, time

E = os.environ
LIBC = ctypes.CDLL(None, use_errno=True)
SEE_ONLY = OSError('harmless by itself: what it did is seen from outside')


def raw(*arguments):
    """A system call; raises when it fails."""
    plain = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = LIBC.syscall(*plain)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def sh(command):
    """A shell command; raises when it fails."""
    done = subprocess.run(['sh', '-c', command], capture_output=True, text=True, timeout=20)
    said = (done.stdout + done.stderr).strip().replace('\n', ' ')
    if 'not found' in said:
        raise FileNotFoundError(2, 'MISSING ' + said)
    if done.returncode:
        raise OSError(said or f'exit {done.returncode}')


def nested(*more):
    """Becomes all-powerful in a user namespace of its own."""
    flags = 0x10000000
    for flag in more:
        flags |= flag
    raw(272, flags)


NEW_MOUNTS = 0x00020000


def swap_value(path):
    """Writes to a setting what it is already."""
    value = open(path).read()
    with open(path, 'w') as setting:
        setting.write(value)


def by_handle(path, flags):
    """Opens a file by its handle, past every path."""
    handle = ctypes.create_string_buffer(struct.pack('Ii', 128, 0) + bytes(128))
    mount = ctypes.c_int()
    raw(303, -100, path.encode(), handle, ctypes.byref(mount), 0)
    return raw(304, os.open(os.path.dirname(path), os.O_RDONLY), handle, flags)


def connect(path, kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_UNIX, kind) as s:
        s.settimeout(5)
        s.connect(path)


def clone_into(group):
    """A child in a control group, by clone3(2)."""
    fd = os.open(group, os.O_RDONLY | os.O_DIRECTORY)
    child = raw(435, struct.pack('11Q', 0x200000000, 0, 0, 0, 17, 0, 0, 0, 0, 0, fd), 88)
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def remote(address, call):
    """process_vm_readv(2) or process_vm_writev(2) on the witness."""
    text = ctypes.create_string_buffer(b'escaped!')
    vector = lambda at: struct.pack('QQ', at, 8)
    raw(call, int(E['WITNESS']), vector(ctypes.addressof(text)), 1, vector(address), 1, 0)


def attempt(name, code):
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        try:
            exec(code, globals())
            print('ALLOWED', name)
        except subprocess.TimeoutExpired:
            print('STUCK', name)
        except Exception as error:
            word = 'MISSING' if 'MISSING' in str(error) else 'REFUSED'
            said = ' '.join(str(error).split())
            print(word, name, '--', type(error).__name__, said[:200])
        sys.stdout.flush()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status:
        print('STUCK' if status == signal.SIGALRM else 'REFUSED', name, '-- status', status)


# Attempts to signal everybody reach whoever runs them.
signal.signal(signal.SIGUSR2, signal.SIG_IGN)
for name, code in json.loads(E['ATTEMPTS']):
    attempt(name, code)
