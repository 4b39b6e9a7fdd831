package tests

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/weirhq/weir/tests/harness"
)

// supervisedVar makes the test binary a wrapper: it has the kernel report the
// calls that change files, and becomes the program that the variable names.
const supervisedVar = "WEIR_TESTS_SUPERVISED"

// changes are the system calls that change files, with the argument that is
// the file: a path, or a descriptor.
var changes = map[int32]struct {
	name string
	arg  int
	path bool
}{
	unix.SYS_OPENAT:    {"openat", 1, true}, // those that create something
	unix.SYS_MKDIRAT:   {"mkdirat", 1, true},
	unix.SYS_RENAMEAT:  {"renameat", 1, true},
	unix.SYS_RENAMEAT2: {"renameat", 1, true},
	unix.SYS_LINKAT:    {"linkat", 1, true},
	unix.SYS_UNLINKAT:  {"unlinkat", 1, true},
	unix.SYS_FCHMODAT:  {"fchmodat", 1, true},
	unix.SYS_UTIMENSAT: {"utimensat", 1, true},
	unix.SYS_WRITE:     {"write", 0, false},
	unix.SYS_PWRITE64:  {"pwrite64", 0, false},
	unix.SYS_FTRUNCATE: {"ftruncate", 0, false},
	unix.SYS_FALLOCATE: {"fallocate", 0, false},
	unix.SYS_FSYNC:     {"fsync", 0, false},
	unix.SYS_FDATASYNC: {"fdatasync", 0, false},
	unix.SYS_FCHMOD:    {"fchmod", 0, false},

	unix.SYS_SENDFILE: {sendfile, 1, false}, // which reads, and is counted if it is to be spoilt
}

const sendfile = "sendfile"

// execSupervised becomes a program whose changes of files wait for the word of
// the process that holds the other end of file descriptor 3,
// seccomp_unotify(2).
func execSupervised(program string) error {
	runtime.LockOSThread()                                                       // the filter is this thread's, and stays with the program that it becomes
	filter := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}} // the call's number
	for nr := range changes {
		filter = append(filter,
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: uint32(nr)},
			unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF})
	}
	filter = append(filter, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW})
	fprog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl: %w", err)
	}
	listener, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&fprog)))
	if errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	if err := unix.Sendmsg(3, []byte{0}, unix.UnixRights(int(listener)), nil, 0); err != nil {
		return fmt.Errorf("sendmsg: %w", err)
	}
	unix.CloseOnExec(3)
	return syscall.Exec(program, os.Args, os.Environ())
}

// notification is struct seccomp_notif, response is struct seccomp_notif_resp.
type notification struct {
	id         uint64
	thread     uint32
	_          uint32
	nr         int32
	_          uint32
	_          uint64
	parameters [6]uint64
}

type response struct {
	id    uint64
	_     int64
	errno int32
	flags uint32
}

// supervisor stands between a mirror and the filesystem below its data. It
// counts the calls that change something there and can spoil one of them.
type supervisor struct {
	*harness.Weir

	mu      sync.Mutex
	counted map[string]int // calls since the last aim, by name
	name    string         // of the calls of which one is spoilt
	nth     int
	errno   syscall.Errno // its error; 0 kills the mirror
	hit     bool
}

// startSupervised is harness.StartWeirIn with a supervisor, whose data is below dir.
func startSupervised(t *testing.T, dir, config string) *supervisor {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	harness.Must(t, err)
	theirs := os.NewFile(uintptr(pair[1]), "supervisor")
	s := &supervisor{counted: make(map[string]int)}
	done := make(chan struct{})
	data := filepath.Join(dir, "data")
	go func() {
		defer close(done)
		if err := s.supervise(pair[0], data); err != nil {
			t.Errorf("supervising the mirror: %v", err)
		}
	}()
	t.Cleanup(func() { <-done }) // after the mirror's end
	defer theirs.Close()
	s.Weir = harness.StartWeirAs(t, dir, config, func(cmd *exec.Cmd) {
		self, err := os.Executable()
		harness.Must(t, err)
		cmd.Env = append(cmd.Env, supervisedVar+"="+cmd.Path)
		cmd.Path, cmd.ExtraFiles = self, []*os.File{theirs}
	})
	return s
}

// aim begins a new count, and spoils the n-th call of a name in it: with an
// error or, where that is 0, by SIGKILL in place of the call.
func (s *supervisor) aim(name string, n int, errno syscall.Errno) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counted = make(map[string]int)
	s.name, s.nth, s.errno, s.hit = name, n, errno, false
}

// rest ends the spoiling, and returns the calls that could be spoilt and
// whether one was.
func (s *supervisor) rest() (counted map[string]int, hit bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.name = ""
	return maps.Clone(s.counted), s.hit
}

// supervise answers the kernel until the mirror has ended.
func (s *supervisor) supervise(socket int, data string) error {
	defer unix.Close(socket)
	rights := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(socket, make([]byte, 1), rights, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return err
	}
	if n == 0 {
		return errors.New("the kernel's listener did not come: does it allow seccomp?")
	}
	messages, err := unix.ParseSocketControlMessage(rights[:n])
	if err != nil {
		return err
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return err
	}
	defer unix.Close(fds[0])
	for {
		poll := []unix.PollFd{{Fd: int32(fds[0]), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if poll[0].Revents&unix.POLLHUP != 0 {
			return nil
		}
		if poll[0].Revents&unix.POLLIN == 0 {
			continue
		}
		if err := s.answer(fds[0], data); err != nil {
			return err
		}
	}
}

// answer lets one call happen, or not. A call that a signal interrupts, or
// whose process has ended, is gone when it is to be answered: ENOENT.
func (s *supervisor) answer(listener int, data string) error {
	var call notification
	if errno := ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&call)); errno != 0 {
		return ignoreGone(errno)
	}
	verdict := response{id: call.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
	if name := call.changes(data); name != "" {
		errno, kill := s.judge(name)
		if kill {
			_ = s.Cmd.Process.Kill()
			return nil
		}
		if errno != 0 {
			verdict.errno, verdict.flags = -int32(errno), 0
		}
	}
	return ignoreGone(ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&verdict)))
}

func (s *supervisor) judge(name string) (errno syscall.Errno, kill bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if name == sendfile && s.name != name {
		return 0, false
	}
	s.counted[name]++
	if s.name != name || s.counted[name] != s.nth {
		return 0, false
	}
	s.hit = true
	return s.errno, s.errno == 0
}

// changes returns the name of a call that changes something below a directory,
// else "".
func (c *notification) changes(dir string) string {
	call := changes[c.nr]
	proc := fmt.Sprintf("/proc/%d/", c.thread)
	var path string
	switch {
	case c.nr == unix.SYS_OPENAT && c.parameters[2]&unix.O_CREAT == 0:
		return ""
	case call.path:
		path = readString(proc+"mem", int64(c.parameters[call.arg]))
	default:
		path, _ = os.Readlink(fmt.Sprint(proc, "fd/", c.parameters[call.arg])) // of a thread that was killed it is ""
	}
	if path != dir && !strings.HasPrefix(path, dir+"/") {
		return ""
	}
	return call.name
}

// readString returns the path at an address of a process, or "" when that has
// ended.
func readString(mem string, address int64) string {
	file, err := os.Open(mem)
	if err != nil {
		return ""
	}
	defer file.Close()
	path := make([]byte, unix.PathMax)
	n, _ := file.ReadAt(path, address) // it may end with the mapping
	path, _, _ = bytes.Cut(path[:n], []byte{0})
	return string(path)
}

func ioctl(fd int, request uint, argument unsafe.Pointer) syscall.Errno {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(argument))
	return errno
}

func ignoreGone(errno syscall.Errno) error {
	if errno == 0 || errno == unix.ENOENT || errno == unix.EINTR {
		return nil
	}
	return errno
}
