package soak

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/testutil"
)

// patience bounds every wait for something that ought to happen at once.
const patience = 60 * time.Second

// registry is a distribution process. It can be killed and started again.
type registry struct {
	t       *testing.T
	program string // path
	addr    string
	config  string // path of its configuration
	log     string // path
	mu      sync.Mutex
	process *exec.Cmd // nil while it is stopped
}

// startRegistry runs a registry on a directory that registries may share. The
// auth section of its configuration may be empty.
func startRegistry(t *testing.T, name, root, auth string) *registry {
	t.Helper()
	dir := t.TempDir()
	r := &registry{
		t: t, program: testutil.Program(t, "docker-registry", "docker-registry"), addr: freeAddr(t),
		config: filepath.Join(dir, name+".yml"), log: filepath.Join(dir, name+".log"),
	}
	config := fmt.Sprintf(`version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: %q}}
http: {addr: %q}
%s`, root, r.addr, auth)
	if err := os.WriteFile(r.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.stop)
	r.start()
	return r
}

// start starts the process unless it runs, and returns when it answers.
func (r *registry) start() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.process != nil {
		return
	}
	log, err := os.OpenFile(r.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		r.t.Error(err)
		return
	}
	defer log.Close()
	process := exec.Command(r.program, "serve", r.config)
	process.Stdout, process.Stderr = log, log
	if err := process.Start(); err != nil {
		r.t.Error(err)
		return
	}
	r.process = process
	if !eventually(func() bool { return answers("http://" + r.addr + "/v2/") }) {
		said, _ := os.ReadFile(r.log)
		r.t.Errorf("a registry does not start:\n%s", said)
	}
}

// stop kills the process. To stop a stopped one does nothing.
func (r *registry) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.process == nil {
		return
	}
	_ = r.process.Process.Kill()
	_ = r.process.Wait() // its error says that it was killed
	r.process = nil
}

// push stores all content. The registry asks for no credentials.
func (r *registry) push(t *testing.T, c *content) {
	t.Helper()
	for repo, blobs := range c.blobs {
		for _, dgst := range blobs {
			r.pushBlob(t, repo, dgst, c.bodies[dgst])
		}
	}
	for _, indexes := range []bool{false, true} { // an index after what it names
		for _, image := range c.images {
			if c.isIndex(image.digest) == indexes {
				target := "http://" + r.addr + "/v2/" + image.repo + "/manifests/" + image.tag
				r.send(t, http.MethodPut, target, c.types[image.digest], c.bodies[image.digest], http.StatusCreated)
			}
		}
	}
}

func (r *registry) pushBlob(t *testing.T, repo string, dgst digest.Digest, body []byte) {
	t.Helper()
	location := r.send(t, http.MethodPost, "http://"+r.addr+"/v2/"+repo+"/blobs/uploads/", "", nil, http.StatusAccepted)
	target, err := url.Parse(location)
	if err != nil {
		t.Fatal(err)
	}
	query := target.Query()
	query.Set("digest", dgst.String())
	target.RawQuery = query.Encode()
	r.send(t, http.MethodPut, target.String(), "application/octet-stream", body, http.StatusCreated)
}

// send sends a request of a push and returns the Location of the answer.
func (r *registry) send(t *testing.T, method, target, contentType string, body []byte, want int) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, target, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	said, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != want {
		t.Fatalf("%s %s: %s: %s", method, target, resp.Status, said)
	}
	return resp.Header.Get("Location")
}

// answers reports whether something speaks HTTP at a URL.
func answers(target string) bool {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	resp, err := client.Get(target)
	if err != nil {
		return false
	}
	return resp.Body.Close() == nil
}

// eventually waits for something that a process does by itself, and reports
// whether it came to hold.
func eventually(holds func() bool) bool {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			return holds()
		}
	}
	return true
}

// freeAddr returns an address of the loopback interface that nobody listens on,
// with a port below those that Linux gives to outgoing connections and above
// those of redistest, so that it is still free when what listened there comes
// back.
func freeAddr(t *testing.T) string {
	t.Helper()
	const first, count = 30000, 2700
	var err error
	for range 100 {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(first+rand.IntN(count)))
		var listener net.Listener
		if listener, err = net.Listen("tcp", addr); err == nil {
			listener.Close()
			return addr
		}
	}
	t.Fatalf("no free port: %v", err)
	return ""
}
