package tests

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// stalled is a mirror with a download that waits at a gate for its second half.
type stalled struct {
	*harness.Weir
	dir      string
	upstream *upstreamtest.Registry
	gate     *upstreamtest.Gate
	digest   digest.Digest
	path     string
}

const stalledSize = 4 * mib

func newStalled(t *testing.T, config string) *stalled {
	t.Helper()
	s := &stalled{dir: t.TempDir(), upstream: upstreamtest.New(t), gate: upstreamtest.NewGate()}
	s.digest = addRandom(t, s.upstream, "org/app", stalledSize, 50)
	s.path = blobPath("mirror/org/app", s.digest)
	s.upstream.Fault(upstreamtest.Blobs, upstreamtest.StallAfter(stalledSize/2, s.gate))
	s.Weir = harness.StartWeirIn(t, s.dir, config+block("mirror", s.upstream))
	return s
}

// signal sends SIGTERM and returns when the mirror has noticed.
func (s *stalled) signal(t *testing.T) {
	t.Helper()
	if err := s.Cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s.Logs(t, "shutting down")
}

// A download that clients wait for ends before the mirror does.
func TestShutdownWaitsForClients(t *testing.T) {
	t.Parallel()
	s := newStalled(t, "")
	p := s.Pull(t, s.path)
	arrived(t, s.gate, 1)
	s.signal(t)
	harness.Eventually(t, "no more connections", func() bool {
		resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request(t, s.Weir, "/healthz"))
		if err == nil {
			resp.Body.Close()
		}
		return err != nil
	})
	s.gate.Open()
	p.Whole(t, "the client", s.digest)
	if code := s.Wait(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func request(t *testing.T, w *harness.Weir, path string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// A shutdown waits for a download without clients too: the next mirror has its
// blob.
func TestShutdownWaitsForDownloads(t *testing.T) {
	t.Parallel()
	s := newStalled(t, "")
	resp := s.Open(t, s.path)
	if _, err := io.CopyN(io.Discard, resp.Body, stalledSize/4); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	s.MetricIs(t, 1, "weir_jobs", "state", "running")
	s.signal(t)
	s.gate.Open()
	if code := s.Wait(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	s.upstream.ResetRequests()
	next := harness.StartWeirIn(t, s.dir, block("mirror", s.upstream))
	expectContent(t, "after the restart", next.Get(t, s.path), s.digest, statusHit)
	expectWire(t, s.upstream, "after the restart")
	if left := next.Stored(t, "tmp"); len(left) != 1 {
		t.Errorf("temporary files: %q, want the lock of the running mirror", left)
	}
}

// A pull that does not end within the limit is cut off, and no client takes it
// for whole.
func TestShutdownRunsOutOfTime(t *testing.T) {
	t.Parallel()
	s := newStalled(t, "[global]\nshutdown_drain_secs = 1\n")
	p := s.Pull(t, s.path)
	arrived(t, s.gate, 1)
	if code := s.Terminate(t); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	if p.Wait(t); p.Err == nil {
		t.Errorf("the client took %d of %d bytes for whole", p.Length, stalledSize)
	}
	if s.Log.Count("weir: ", "shutdown_drain_secs") != 1 {
		t.Error("the mirror does not say that time ran out")
	}
	left := slices.DeleteFunc(s.Stored(t), func(name string) bool { // the mirror has answered something
		return name == "records/_mirror" || strings.HasPrefix(name, "records/_traffic/")
	})
	if len(left) != 0 {
		t.Errorf("left over: %q", left)
	}
}

// A second signal ends the mirror at once.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	s := newStalled(t, "[global]\nshutdown_drain_secs = 3600\n")
	p := s.Pull(t, s.path)
	arrived(t, s.gate, 1)
	s.signal(t)
	if s.Terminate(t); !s.Cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled() {
		t.Errorf("the mirror ended by itself: %v", s.Cmd.ProcessState)
	}
	if p.Wait(t); p.Err == nil {
		t.Errorf("the client took %d of %d bytes for whole", p.Length, stalledSize)
	}
}

// An idle mirror ends at once, and leaves only its name.
func TestShutdownOfAnIdleMirror(t *testing.T) {
	t.Parallel()
	w := harness.StartWeir(t, "[global]\nshutdown_drain_secs = 3600\n"+block("mirror", upstreamtest.New(t)))
	expect(t, "ping", w.Get(t, "/v2/"), http.StatusOK, "") // its connection stays open
	if code := w.Terminate(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if left := w.Stored(t); len(left) > 1 || len(left) == 1 && left[0] != "records/_mirror" {
		t.Errorf("left over: %q", left)
	}
}

// After any load, the mirror holds no more files, connections or goroutines
// than before.
func TestNothingLeaks(t *testing.T) {
	t.Parallel()
	upstream, broken := upstreamtest.New(t), upstreamtest.New(t)
	broken.Fault(upstreamtest.Any, upstreamtest.CutAfter(mib/2))
	w := harness.StartWeir(t, blockOf("mirror", nil, at(upstream), at(broken))+blockOf("broken", []string{`negative_ttl = "0s"`}, at(broken)))
	level := func() (fds int, goroutines float64) {
		goroutines = w.Metric(t, "go_goroutines")
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", w.Cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries), goroutines
	}
	w.MetricIs(t, 0, "weir_downloads")
	fds, goroutines := level()

	var pulls []*harness.Pulling
	for i := range 24 {
		dgst := addRandom(t, upstream, "org/app", mib, 60+uint64(i%6))
		addRandom(t, broken, "org/app", mib, 60+uint64(i%6))
		path := blobPath("mirror/org/app", dgst)
		switch i % 4 {
		case 0:
			pulls = append(pulls, w.Pull(t, path))
		case 1:
			pulls = append(pulls, w.Pull(t, path, "Range", "bytes=1000-2000"))
		case 2:
			pulls = append(pulls, w.Pull(t, blobPath("broken/org/app", dgst)))
		default:
			resp := w.Open(t, path)
			if _, err := io.CopyN(io.Discard, resp.Body, 1); err != nil {
				t.Error(err)
			}
			resp.Body.Close()
		}
	}
	for _, p := range pulls {
		p.Wait(t)
	}
	w.MetricIs(t, 0, "weir_downloads")
	w.MetricIs(t, 0, "weir_download_readers")
	upstream.Close() // and with it the connections that would be used again
	broken.Close()
	harness.Eventually(t, "everything is given back", func() bool {
		f, g := level()
		return f <= fds && g <= goroutines
	})
}
