package fleet

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/tokencache/redistest"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// nextVersion builds a mirror that speaks the next version with other replicas.
func nextVersion(t *testing.T) string {
	t.Helper()
	source, err := filepath.Abs("../../cluster/value.go")
	harness.Must(t, err)
	text, err := os.ReadFile(source)
	harness.Must(t, err)
	const this, next = "\nconst version = 1\n", "\nconst version = 2\n"
	if strings.Count(string(text), this) != 1 {
		t.Fatalf("%s does not have %q", source, this)
	}
	dir := t.TempDir()
	replaced, overlay := filepath.Join(dir, "value.go"), filepath.Join(dir, "overlay.json")
	harness.WriteFile(t, replaced, strings.Replace(string(text), this, next, 1))
	harness.WriteFile(t, overlay, fmt.Sprintf(`{"Replace": {%q: %q}}`, source, replaced))
	return harness.BuildShipped(t, "-overlay="+overlay)
}

// rotation is the replicas that a balancer gives to clients.
type rotation struct {
	mu       sync.RWMutex
	replicas []*harness.Weir
}

// pull pulls a layer through the next replica.
func (r *rotation) pull(t *testing.T, path string, want digest.Digest, n int) {
	t.Helper()
	r.mu.RLock()
	w := r.replicas[n%len(r.replicas)]
	resp, err := http.Get(w.URL + path)
	r.mu.RUnlock() // a balancer lets requests that have begun end
	if err != nil {
		t.Errorf("pull %d: %v", n, err)
		return
	}
	defer resp.Body.Close()
	got, err := digest.FromReader(resp.Body)
	if err != nil || got != want || resp.StatusCode != http.StatusOK {
		t.Errorf("pull %d: %s, %s, %v", n, resp.Status, got, err)
	}
}

// add adds a replica.
func (r *rotation) add(w *harness.Weir) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.replicas = append(r.replicas, w)
}

// retire takes the oldest replica out, and terminates it. It must end by itself.
func (r *rotation) retire(t *testing.T) {
	t.Helper()
	r.mu.Lock()
	w := r.replicas[0]
	r.replicas = r.replicas[1:]
	r.mu.Unlock()
	harness.Must(t, w.Cmd.Process.Signal(syscall.SIGTERM))
	if code := w.Wait(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// Three replicas are replaced by ones of another version, one after the other, and then there
// are two and five of them. Clients pull all the time, and no pull is lost. Replicas of two versions
// say so once each.
func TestRollingUpdate(t *testing.T) {
	testutil.Long(t, "builds a mirror, and starts nine")
	t.Parallel()
	next, redis, upstream := nextVersion(t), redistest.Start(t), upstreamtest.New(t)
	config := replicaConfig(redis.URL(), block(upstream))
	var rotation rotation
	var all []*harness.Weir
	start := func(binary string) {
		t.Helper()
		w := harness.StartWeirAs(t, t.TempDir(), config, func(cmd *exec.Cmd) {
			if binary != "" {
				cmd.Path = binary
			}
		})
		rotation.add(w)
		all = append(all, w)
	}
	for range 3 {
		start("")
	}

	stop := make(chan struct{})
	var clients sync.WaitGroup
	for client := range 4 {
		clients.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				// Two clients pull each layer, from different replicas.
				layer := append([]byte(fmt.Sprint(client/2, " ", n)), content(mib/2, 24)...)
				upstream.AddBlob("org/app", layer)
				dgst := digest.FromBytes(layer)
				rotation.pull(t, "/v2/mirror/org/app/blobs/"+dgst.String(), dgst, n+client)
			}
		})
	}
	for range 3 {
		start(next)
		all[len(all)-1].Logs(t, otherVersion, "Both download independently until all replicas have the same version")
		rotation.retire(t)
	}
	rotation.retire(t) // two are left
	for range 3 {      // five
		start(next)
	}
	newest := all[len(all)-1]
	harness.Eventually(t, "the newest replica reads from others", func() bool {
		return newest.Metric(t, received, "direction", "received") > 0
	})
	close(stop)
	clients.Wait()
	for n, w := range all {
		for line := range strings.Lines(w.Log.String()) {
			if strings.Contains(line, otherVersion) && w.Log.Count(otherVersion, replicaOf.FindString(line)) != 1 {
				t.Errorf("replica %d says several times: %s", n, line)
			}
		}
	}
}

const otherVersion = "a replica of another version shares this Redis"

// replicaOf finds the other replica in a line of the log.
var replicaOf = regexp.MustCompile(`"replica":"[^"]*"`)
