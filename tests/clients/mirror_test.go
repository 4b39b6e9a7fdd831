package clients

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/weirhq/weir/tests/harness"
)

// registries are those that the mirror has a block for, the default one first.
// All are one real registry on this machine, below a path of that name, so a
// request that came through another registry's block finds nothing.
func registries() []string { return []string{"docker.io", "ghcr.io", "quay.io"} }

type mirror struct {
	*harness.Weir
	upstream *harness.Distribution
	env      []string // of clients
}

func startMirror(t *testing.T) *mirror {
	t.Helper()
	return startMirrorWith(t, "")
}

// startMirrorWith runs a mirror with further tables in its configuration.
func startMirrorWith(t *testing.T, config string) *mirror {
	t.Helper()
	return startMirrorFor(t, config, "")
}

// startMirrorFor is startMirrorWith, and one entry of allow alone may pull from ghcr.io.
// All may if it is empty.
func startMirrorFor(t *testing.T, config, entry string) *mirror {
	t.Helper()
	m := &mirror{upstream: harness.StartDistribution(t, http.DefaultClient, "http", "", ""), env: noWayAround(t)}
	for n, name := range registries() {
		config += fmt.Sprintf("[repository.%q]\ndefault = %t\n", name, n == 0)
		if entry != "" && name == "ghcr.io" {
			config += fmt.Sprintf("allow = [%q]\n", entry)
		}
		config += fmt.Sprintf("[[repository.%[1]q.upstream]]\nurl = \"http://%[2]s/%[1]s\"\n", name, m.upstream.Addr)
	}
	m.Weir = harness.StartWeir(t, config)
	return m
}

// noWayAround returns an environment in which a proxy receives each request to
// another machine. A client that sends one has gone around the mirror: that
// fails the test.
func noWayAround(t *testing.T) []string {
	t.Helper()
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("went around the mirror: %s %s", r.Method, r.Host)
		w.WriteHeader(http.StatusBadGateway)
	}))
	t.Cleanup(proxy.Close)
	return []string{"HTTP_PROXY=" + proxy.URL, "HTTPS_PROXY=" + proxy.URL, "NO_PROXY="}
}

// command is a client's, which cannot go around the mirror.
func (m *mirror) command(t *testing.T, path string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Env = append(os.Environ(), m.env...)
	return cmd
}

// push is a client of the registry behind the mirror.
func (m *mirror) push() *harness.Pusher {
	return &harness.Pusher{Client: http.DefaultClient, Base: "http://" + m.upstream.Addr}
}

// asked returns the requests of the mirror to the registry behind it for a
// repository, such as "HEAD manifests/1.2". Requests of pushes are not among
// them.
func (m *mirror) asked(repository string) []string {
	line := regexp.MustCompile(`"([A-Z]+) /v2/` + regexp.QuoteMeta(repository) + `/(\S+) HTTP/1\.1" .* "weir/`)
	var requests []string
	for _, found := range line.FindAllStringSubmatch(m.upstream.Log.String(), -1) {
		requests = append(requests, found[1]+" "+found[2])
	}
	return requests
}

// coldThenWarm pulls twice from a repository of which nothing is cached, and
// counts the mirror's requests to the registry behind it. The first pull
// fetches each manifest and blob once. The second one costs a HEAD of the tag,
// or nothing if it is by digest, for which tag is empty.
func (m *mirror) coldThenWarm(t *testing.T, repository, tag string, manifests, blobs int, pull func()) {
	t.Helper()
	pull()
	harness.Eventually(t, "all is stored", func() bool { return m.Metric(t, "weir_downloads") == 0 })
	harness.Eventually(t, "the registry was asked for everything", func() bool { return gets(m.asked(repository), "") >= manifests+blobs })
	cold := m.asked(repository)
	if gets(cold, "manifests/") != manifests || gets(cold, "blobs/") != blobs {
		t.Errorf("cold: %q, want %d manifests and %d blobs, each once", cold, manifests, blobs)
	}

	hits := func() float64 { return m.Metric(t, "weir_requests_total", "operation", "blob", "cache", "hit") }
	before := hits()
	pull()
	harness.Eventually(t, "the second pull's blobs come from the cache", func() bool { return hits()-before >= float64(blobs) })
	warm := m.asked(repository)[len(cold):]
	for _, request := range warm {
		if tag == "" || request != "HEAD manifests/"+tag {
			t.Errorf("warm: %s", request)
		}
	}
	if tag != "" && len(warm) == 0 {
		t.Error("warm: the tag was not looked up")
	}
}

func gets(requests []string, path string) int {
	n := 0
	for _, request := range requests {
		if strings.HasPrefix(request, "GET "+path) {
			n++
		}
	}
	return n
}
