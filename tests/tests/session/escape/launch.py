# Runs a program in a state that a careless or older machine would give it:
#   launch.py descriptors PROGRAM...   with descriptors that lead outside
#   launch.py no-landlock PROGRAM...   on a kernel that seems to have no Landlock
#   launch.py plain PROGRAM...
import ctypes, os, socket, struct, sys

how, program = sys.argv[1], sys.argv[2:]
if how == 'descriptors':
    directory = os.open(os.environ['OUTSIDE'], os.O_RDONLY)
    by_path = os.open(os.environ['FILE'], os.O_PATH)
    process = os.pidfd_open(int(os.environ['WITNESS']))
    service = socket.socket(socket.AF_UNIX)
    service.connect(os.environ['SOCKET'])
    for there, fd in [(40, directory), (41, by_path), (42, process), (43, service.fileno())]:
        os.dup2(fd, there)
elif how == 'no-landlock':
    # seccomp: the three system calls of Landlock answer "not built in".
    code = lambda what, yes, no, value: struct.pack('HBBI', what, yes, no, value)
    rules = code(0x20, 0, 0, 0) + code(0x35, 0, 2, 444) + code(0x25, 1, 0, 446)
    rules += code(0x06, 0, 0, 0x00050000 | 38) + code(0x06, 0, 0, 0x7FFF0000)
    buffer = ctypes.create_string_buffer(rules, len(rules))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    filter = struct.pack('HxxxxxxQ', len(rules) // 8, ctypes.addressof(buffer))
    assert libc.prctl(22, 2, ctypes.c_char_p(filter), 0, 0) == 0, os.strerror(ctypes.get_errno())
    assert libc.syscall(444, None, 0, 1) == -1
os.execvp(program[0], program)
