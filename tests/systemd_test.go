package tests

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// The unit has no mistake that systemd can find, and gives an intruder little.
func TestSystemdUnit(t *testing.T) {
	analyze := testutil.Program(t, "systemd-analyze", "systemd")
	unit, err := os.ReadFile("../contrib/systemd/weir.service")
	harness.Must(t, err)
	file := filepath.Join(t.TempDir(), "weir.service")
	harness.WriteFile(t, file, strings.ReplaceAll(string(unit), "/usr/local/bin/weir", harness.Binary(t)))
	if out := harness.Run(t, exec.CommandContext(t.Context(), analyze, "verify", "--man=no", file)); out != "" {
		t.Errorf("systemd-analyze verify: %s", out)
	}
	// The exposure, which the threshold is ten times of: 10.0 is no protection.
	harness.Run(t, exec.CommandContext(t.Context(), analyze, "security", "--no-pager", "--offline=yes", "--threshold=15", file))
}

// A service manager that waits learns when the mirror can be reached and when
// it ends.
func TestSystemdIsTold(t *testing.T) {
	path := filepath.Join(harness.SocketDir(t, "notify-"), "sock")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	harness.Must(t, err)
	defer socket.Close()
	told := func() string {
		message := make([]byte, 4096)
		harness.Must(t, socket.SetReadDeadline(time.Now().Add(harness.Patience)))
		n, err := socket.Read(message)
		harness.Must(t, err)
		return string(message[:n])
	}
	w := harness.StartWeir(t, "", "NOTIFY_SOCKET="+path)
	if got, want := told(), "READY=1\nSTATUS=listening on "+w.URL; got != want {
		t.Errorf("at the start it says %q, want %q", got, want)
	}
	if code := w.Terminate(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if got := told(); got != "STOPPING=1" {
		t.Errorf("at the end it says %q", got)
	}
	w = harness.StartWeir(t, "", "NOTIFY_SOCKET="+path+"-gone")
	w.Logs(t, "cannot report to systemd")
}

// boot is run by sh in namespaces of its own. It lays out the files of a
// machine with Weir installed, none of which is seen outside, and becomes
// systemd.
const boot = `
set -eu
umount -R -l /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
mount -t tmpfs -o mode=755 none /run
mkdir /run/systemd /run/lock /run/etc /run/work
mount -t overlay -o lowerdir=/etc,upperdir=/run/etc,workdir=/run/work none /etc
mount -t tmpfs -o mode=755 none /var/lib
mount -t tmpfs -o mode=1777 none /var/tmp
mount -t tmpfs none /usr/lib/systemd/system-generators
mount -t tmpfs -o mode=755 none /usr/local/bin
systemd-sysusers "$REPOSITORY/contrib/systemd/weir.sysusers"
install -m 755 "$BINARY" /usr/local/bin/weir
install -D -m 644 "$DIR/config.toml" /etc/weir/config.toml
install -m 600 "$DIR/hub" /etc/weir/hub
mount --bind "$DIR/console" /dev/console
mount --make-rshared / # among these namespaces, for credentials
export container=weir SYSTEMD_UNIT_PATH="$DIR/units"
exec /lib/systemd/systemd --system --unit=test.target --show-status=0 --log-target=console
`

// systemd is one of the test's own, in whose mount and process namespaces
// commands run.
type systemd struct {
	t   *testing.T
	pid string // outside
}

// startSystemd boots systemd with the unit as it stands, and lines for its
// [Service] section, on a machine with /etc/weir/config.toml and the secret
// /etc/weir/hub.
func startSystemd(t *testing.T, config, secret, service string) *systemd {
	t.Helper()
	testutil.Root(t)
	testutil.Program(t, "/lib/systemd/systemd", "systemd")
	dir := t.TempDir()
	units := filepath.Join(dir, "units")
	harness.Must(t, os.MkdirAll(filepath.Join(units, "weir.service.d"), 0o755))
	unit, err := os.ReadFile("../contrib/systemd/weir.service")
	harness.Must(t, err)
	harness.WriteFile(t, filepath.Join(units, "weir.service"), string(unit))
	harness.WriteFile(t, filepath.Join(units, "weir.service.d", "test.conf"), "[Service]\n"+service)
	for _, target := range []string{"test", "sysinit", "basic", "shutdown", "network-online"} {
		harness.WriteFile(t, filepath.Join(units, target+".target"), "[Unit]\nDefaultDependencies=no\n")
	}
	harness.WriteFile(t, filepath.Join(dir, "config.toml"), config)
	harness.WriteFile(t, filepath.Join(dir, "hub"), secret)
	harness.WriteFile(t, filepath.Join(dir, "console"), "")
	repository, err := filepath.Abs("..")
	harness.Must(t, err)
	harness.Run(t, exec.CommandContext(t.Context(), "make", "-C", repository, "build"))
	static := filepath.Join(repository, "dist/weir")

	cmd := exec.CommandContext(t.Context(), testutil.Program(t, "unshare", "util-linux"), "--mount", "--pid", "--cgroup", "--uts", "--ipc",
		"--fork", "--kill-child", "--mount-proc", "--propagation", "private", "sh", "-c", boot)
	cmd.Env = append(os.Environ(), "DIR="+dir, "BINARY="+static, "REPOSITORY="+repository)
	inCgroup(t, cmd)
	d := harness.StartDaemon(t, cmd)
	s := &systemd{t: t}
	children := fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", d.Cmd.Process.Pid)
	// unshare ignores SIGTERM, and ends with the process that it has started.
	t.Cleanup(func() { _ = exec.Command("kill", "-KILL", s.pid).Run() })
	harness.Eventually(t, "systemd has started", func() bool {
		pids, _ := os.ReadFile(children)
		s.pid = strings.TrimSpace(string(pids))
		return s.pid != "" && s.command("systemctl", "is-active", "test.target").Run() == nil
	})
	return s
}

// inCgroup has a command run in a control group of its own, which is removed
// with all that are in it when the test has ended.
func inCgroup(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	root := "/sys/fs/cgroup"
	if _, err := os.Stat(root + "/unified"); err == nil {
		root += "/unified" // beside the older hierarchies
	}
	group, err := os.MkdirTemp(root, "weir-tests-")
	harness.Must(t, err)
	t.Cleanup(func() {
		harness.Eventually(t, "the control groups are empty", func() bool {
			_ = exec.Command("find", group, "-depth", "-type", "d", "-exec", "rmdir", "{}", ";").Run()
			_, err := os.Stat(group)
			return os.IsNotExist(err)
		})
	})
	startWithin(t, group, cmd)
}

// startWithin has a command run in a control group.
func startWithin(t *testing.T, group string, cmd *exec.Cmd) {
	t.Helper()
	cmd.Args = append([]string{"sh", "-c", `echo $$ >"$0/cgroup.procs" && exec "$@"`, group}, cmd.Args...)
	cmd.Path = testutil.Program(t, "sh", "dash")
}

func (s *systemd) command(args ...string) *exec.Cmd {
	return exec.CommandContext(s.t.Context(), "nsenter", append([]string{"--target", s.pid, "--mount", "--pid", "--cgroup", "--"}, args...)...)
}

// A real systemd starts the unit as it stands, under all of its restrictions.
// The mirror reloads in it, keeps content where the unit says, reads a
// credential, and ends without cutting a client off.
func TestSystemdService(t *testing.T) {
	upstream := upstreamtest.New(t, upstreamtest.WithBasic("puller", "secret"))
	blob := addRandom(t, upstream, "org/app", mib, 1)
	addr := testutil.FreeAddr(t)
	_, port, err := net.SplitHostPort(addr)
	harness.Must(t, err)
	config := fmt.Sprintf("[server]\nport = %s\n[blob_store.fs]\nroot_dir = \"/var/lib/weir\"\nmin_free = \"0B\"\n", port) +
		blockOf("docker.io", nil, at(upstream, `username = "puller"`, `password_file = "${CREDENTIALS_DIRECTORY}/hub"`))
	log := filepath.Join(t.TempDir(), "log")
	s := startSystemd(t, config, "secret\n", "LoadCredential=hub:/etc/weir/hub\nStandardError=append:"+log+"\n")
	logged := func(text string) bool {
		content, _ := os.ReadFile(log)
		return strings.Contains(string(content), text)
	}
	t.Cleanup(func() {
		if content, _ := os.ReadFile(log); t.Failed() {
			t.Logf("the service's log:\n%s", content)
		}
	})

	harness.Run(t, s.command("systemctl", "start", "weir"))
	w := &harness.Weir{URL: "http://" + addr}
	expect(t, "once systemctl has returned", w.Get(t, "/readyz"), http.StatusOK, "")
	expectContent(t, "a pull", w.Get(t, blobPath("docker.io/org/app", blob)), blob, statusStored)
	w.MetricIs(t, 0, "weir_downloads")
	expectContent(t, "another one", w.Get(t, blobPath("docker.io/org/app", blob)), blob, statusHit)
	limits := harness.Run(t, s.command("systemctl", "show", "--property", "MemoryMax,TasksMax,IPAddressDeny", "weir"))
	for _, want := range []string{"MemoryMax=1073741824", "TasksMax=8192", "169.254.0.0/16", "fe80::/64", "100.100.100.200/32", "192.0.0.192/32", "fd00:ec2::254/128", "fd00:ec2::23/128"} {
		if !strings.Contains(limits, want) {
			t.Errorf("its limits lack %s: %q", want, limits)
		}
	}
	stored := strings.TrimSpace(harness.Run(t, s.command("find", "/var/lib/weir/blobs", "-name", blob.Encoded(), "-printf", "%u")))
	if stored != "weir" {
		t.Errorf("stored content belongs to %q, want the unit's user", stored)
	}

	// The file has not changed, so that nothing but the signal is a reason.
	harness.Run(t, s.command("systemctl", "reload", "weir"))
	harness.Eventually(t, "the reload", func() bool { return logged("the changed configuration is in force") })
	harness.Run(t, s.command("sh", "-c", "echo 'nonsense = 1' >/etc/weir/config.toml"))
	harness.Eventually(t, "nonsense is refused", func() bool { return logged("nonsense: unknown key") })
	expect(t, "after that", w.Get(t, "/readyz"), http.StatusOK, "")

	harness.Run(t, s.command("systemctl", "stop", "weir"))
	const ended = "Result=success\nExecMainStatus=0\n"
	if got := harness.Run(t, s.command("systemctl", "show", "--property", "Result,ExecMainStatus", "weir")); got != ended {
		t.Errorf("stopped, it is %q, want %q", got, ended)
	}
	if err := s.command("systemctl", "start", "weir").Run(); err == nil {
		t.Error("it starts with a configuration that cannot be used")
	}
	if got := harness.Run(t, s.command("systemctl", "show", "--property", "ExecMainStatus,NRestarts", "weir")); got != "NRestarts=0\nExecMainStatus=2\n" {
		t.Errorf("with a configuration that cannot be used it is %q, want no second try", got)
	}
}

// systemd kills a mirror only after the mirror's own limit.
func TestSystemdWaitsForTheDrain(t *testing.T) {
	unit, err := os.ReadFile("../contrib/systemd/weir.service")
	harness.Must(t, err)
	_, rest, found := strings.Cut(string(unit), "\nTimeoutStopSec=")
	var limit int
	if _, err := fmt.Sscan(rest, &limit); !found || err != nil {
		t.Fatalf("the unit has no TimeoutStopSec in seconds: %v", err)
	}
	if drain := drainSeconds(t); limit <= drain {
		t.Errorf("TimeoutStopSec=%d, want more than global.shutdown_drain_secs, %d", limit, drain)
	}
}

// drainSeconds is the default of global.shutdown_drain_secs.
func drainSeconds(t *testing.T) (seconds int) {
	t.Helper()
	check := exec.CommandContext(t.Context(), harness.Binary(t), "check")
	check.Dir = t.TempDir()
	_, rest, _ := strings.Cut(harness.Run(t, check), "\nshutdown_drain_secs = ")
	_, err := fmt.Sscan(rest, &seconds)
	harness.Must(t, err)
	return seconds
}
