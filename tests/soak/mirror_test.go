package soak

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
)

// maxSize is blob_store.fs.max_size, far below the size of the content, so that
// the mirror has to fetch it again and again.
const maxSize = 32 * mib

// mirror is the process under test. It can be killed and started again.
type mirror struct {
	*harness.Process
	t        *testing.T
	addr     string
	dir      string // of its configuration and data
	redis    string // URL
	first    string // URLs of the upstreams
	second   string
	patience int    // with an upstream, in seconds
	more     string // further tables of the configuration
	crosses  bool   // the second block has the upstreams in the other order

	mu      sync.Mutex
	up      chan struct{} // closed while the mirror answers
	slowest time.Duration // from a start to the first answer
}

func newMirror(t *testing.T, binary, name string, m *mirror) *mirror {
	t.Helper()
	m.t, m.addr, m.dir, m.up = t, testutil.FreeAddr(t), t.TempDir(), make(chan struct{})
	m.configure(m.configuration(variant{}))
	t.Cleanup(func() {
		if log := m.Log(); t.Failed() {
			t.Logf("the end of the log of %s:\n%s", name, log[max(0, len(log)-8*kib):])
		}
	})
	m.Process = harness.NewProcess(t, name,
		func() *exec.Cmd { return exec.Command(binary, "serve", "--config", m.configPath()) },
		func(stdout io.Reader) bool {
			_, err := bufio.NewReader(stdout).ReadString('\n')
			return err == nil
		})
	return m
}

// URL is where clients find the mirror.
func (m *mirror) URL() string { return "http://" + m.addr }

// start starts the process and returns when it answers.
func (m *mirror) start() {
	took := m.Start()
	m.mu.Lock()
	m.slowest = max(m.slowest, took)
	m.mu.Unlock()
	m.appear()
}

// kill ends the process without any notice.
func (m *mirror) kill() {
	m.vanish()
	m.Kill()
}

// vanish says that the mirror does not answer from now on, and appear that it does.
func (m *mirror) vanish() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.answers() {
		m.up = make(chan struct{})
	}
}

func (m *mirror) appear() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.answers() {
		close(m.up)
	}
}

// isUp reports whether the mirror answers.
func (m *mirror) isUp() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.answers()
}

// answers is isUp for a caller that holds the mutex.
func (m *mirror) answers() bool {
	select {
	case <-m.up:
		return true
	default:
		return false
	}
}

// awaitUp waits until the mirror answers.
func (m *mirror) awaitUp(ctx context.Context) {
	m.mu.Lock()
	up := m.up
	m.mu.Unlock()
	select {
	case <-up:
	case <-ctx.Done():
	}
}

func (m *mirror) data() string       { return filepath.Join(m.dir, "data") }
func (m *mirror) configPath() string { return filepath.Join(m.dir, "config", "config.toml") }

// ready reports whether the mirror says that it is ready.
func (m *mirror) ready() bool {
	answer, err := observing.Get(m.URL() + "/readyz")
	if err != nil {
		return false
	}
	answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}

// observing is the client of the observers.
var observing = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}

// logged counts the lines of the log that hold a text.
func (m *mirror) logged(text string) int { return strings.Count(m.Log(), text) }

// variant is the difference between the configurations that the troublemaker
// writes. All of them serve the same names.
type variant struct {
	swapped   bool   // the order of the upstreams
	tagTTL    string // "": asks each time
	immutable bool   // v0, v1, ... are
	spare     bool   // one block more
}

// configuration serves the same upstreams under two names, so that content is
// shared between repositories and proved for each.
func (m *mirror) configuration(v variant) string {
	var b strings.Builder
	host, port, _ := net.SplitHostPort(m.addr)
	fmt.Fprintf(&b, "[server]\nbind_address = %q\nport = %s\n", host, port)
	fmt.Fprintf(&b, "[log]\nformat = \"json\"\nlevel = \"info\"\n")
	fmt.Fprintf(&b, "[cache.redis]\nurl = %q\n", m.redis)
	fmt.Fprintf(&b, "[blob_store.fs]\nroot_dir = %q\n", m.data())
	fmt.Fprintf(&b, "max_size = %q\n", bytesOf(maxSize))
	b.WriteString(m.more)
	blocks := []string{"one", "two"}
	if v.spare {
		blocks = append(blocks, "spare")
	}
	for number, key := range blocks {
		upstreams := []string{m.first, m.second}
		if v.swapped != (m.crosses && number%2 == 1) {
			slices.Reverse(upstreams)
		}
		fmt.Fprintf(&b, "[repository.%q]\n", key)
		if v.tagTTL != "" {
			fmt.Fprintf(&b, "tag_ttl = %q\n", v.tagTTL)
		}
		if v.immutable {
			fmt.Fprintf(&b, "immutable_tags = true\nimmutable_tags_exclusions = [\"^%s$\"]\n", tagOfTheIndex)
		}
		for _, upstream := range upstreams {
			fmt.Fprintf(&b, "[[repository.%q.upstream]]\nurl = %q\nconnect_timeout_secs = 2\nread_timeout_secs = %d\n", key, upstream, m.patience)
		}
	}
	return b.String()
}

// configure puts a configuration in the file's place, as editors do.
func (m *mirror) configure(config string) {
	path := m.configPath()
	for _, err := range []error{
		os.MkdirAll(filepath.Dir(path), 0o750),
		os.WriteFile(path+"~", []byte(config), 0o600),
		os.Rename(path+"~", path),
	} {
		if err != nil {
			m.t.Error(err)
		}
	}
}

// metrics are the sums of the mirror's metrics, by name.
type metrics map[string]float64

// metrics asks the mirror. It fails while the mirror is down.
func (m *mirror) metrics(ctx context.Context) (metrics, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.URL()+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := observing.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	families, err := harness.ParseMetrics(body)
	if err != nil {
		return nil, err
	}
	sums := make(metrics)
	for name, family := range families {
		for _, sample := range family.GetMetric() {
			sums[name] += sample.GetGauge().GetValue() + sample.GetCounter().GetValue()
		}
	}
	return sums, nil
}

// stored returns the bytes of the files below a directory of the data.
func (m *mirror) stored(dir string) (sum int64) {
	err := filepath.WalkDir(filepath.Join(m.data(), dir), func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			sum += info.Size()
		} else if errors.Is(err, fs.ErrNotExist) {
			return nil // it was removed just now
		}
		return err
	})
	if err != nil {
		m.t.Error(err)
	}
	return sum
}
