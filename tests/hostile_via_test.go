package tests

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// A client pretends to be other mirrors, those of this fleet or a long chain of invented
// ones. It may get the error of a loop, and honest clients that ask for the same content at
// the same moment get the content.
func TestForgedVia(t *testing.T) {
	t.Parallel()
	const honestClients = 6
	f := newFleet(t)
	var chain []string
	for i := range 9 {
		chain = append(chain, fmt.Sprintf("1.1 weir-%d", i))
	}
	all := []string{"manifest", "blob", "tags"}
	n, failed, asked := 0, 0, 0
	for name, c := range map[string]struct {
		header, value string
		status        int // of the forged request
		kinds         []string
	}{
		"the mirror upstream":             {"Via", "1.1 " + f.backID, http.StatusLoopDetected, all},
		"the mirror upstream, CDN-Loop":   {"CDN-Loop", f.backID + "; v=1", http.StatusLoopDetected, all[:1]},
		"the mirror upstream, among many": {"Via", "1.1 weir-0, 1.1 nginx, 1.1 " + strings.ToUpper(f.backID) + " (x)", http.StatusLoopDetected, all[1:2]},
		"the mirror itself":               {"Via", "1.1 " + f.frontID, http.StatusLoopDetected, all[2:]},
		"a chain of nine mirrors":         {"Via", strings.Join(chain, ", "), http.StatusLoopDetected, all[:1]},
		"a name of 60 KiB":                {"Via", "1.1 weir-" + strings.Repeat("0", 60*kib), http.StatusOK, all},
		"a name of 60 KiB, CDN-Loop":      {"CDN-Loop", "weir-" + strings.Repeat("0", 60*kib), http.StatusOK, all[1:2]},
		"names of 60 KiB together":        {"Via", strings.Repeat("1.1 proxy, ", 5*kib), http.StatusOK, all[2:]},
	} {
		for _, kind := range c.kinds {
			n++
			layer := fmt.Appendf(nil, "layer %d", n)
			repo, tag := fmt.Sprint("org/app", n), "v1"
			image := f.hub.AddImage(repo, tag, layer)
			path, dgst := manifestPath("next/"+repo, tag), image.Digest
			switch kind {
			case "blob":
				dgst = digest.FromBytes(layer)
				path = blobPath("next/"+repo, dgst)
			case "tags":
				path, dgst = "/v2/next/"+repo+"/tags/list", ""
			}
			gate := f.hold(repo)
			forged := f.front.Pull(t, path, c.header, c.value)
			harness.Eventually(t, "the forged request has come to the mirror upstream, or has ended", func() bool {
				select {
				case <-forged.Done:
					return true
				case <-gate.arrived:
					return true
				default:
					return false
				}
			})
			open := f.front.Metric(t, "process_open_fds")
			var honest []*harness.Pulling
			for range honestClients {
				honest = append(honest, f.front.Pull(t, path))
			}
			// Whether they share the lookup of the forged request is up to the mirror. A
			// connection or two of others may have ended meanwhile.
			harness.Eventually(t, "the honest clients are connected, or have an answer", func() bool {
				return f.front.Metric(t, "process_open_fds") >= open+honestClients-2 || ended(honest)
			})
			close(gate.open)
			if got := forged.Wait(t); got.Status != c.status {
				t.Errorf("%s, %s: the forged request got %d, want %d", name, kind, got.Status, c.status)
			}
			for _, p := range honest {
				asked++
				if p.Wait(t); p.Err != nil || p.Status != http.StatusOK || dgst != "" && p.Digest != dgst {
					failed++
					t.Errorf("%s, %s: an honest client got %d, %v", name, kind, p.Status, p.Err)
				}
			}
		}
	}
	t.Logf("%d of %d honest requests failed", failed, asked)
	for _, record := range f.hub.Log() {
		if got := record.Header.Get("Via") + record.Header.Get("Cdn-Loop"); len(got) > kib {
			t.Fatalf("the registry got a chain of %d bytes", len(got))
		}
	}
}

func ended(pulls []*harness.Pulling) bool {
	for _, p := range pulls {
		select {
		case <-p.Done:
		default:
			return false
		}
	}
	return true
}

// fleet is a mirror behind another one. The ID of the front one is the greater, so that
// requests with that of the other one may share its lookups.
type fleet struct {
	hub             *upstreamtest.Registry
	front           *harness.Weir
	frontID, backID string
	holds           chan *held
}

// held is the first request of a repository on the way to the mirror upstream.
type held struct {
	repo          string
	arrived, open chan struct{}
}

// hold stops the next first request for a repository between the mirrors.
func (f *fleet) hold(repo string) *held {
	h := &held{"/" + repo + "/", make(chan struct{}), make(chan struct{})}
	select {
	case <-f.holds: // of a request that never came
	default:
	}
	f.holds <- h
	return h
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	f := &fleet{hub: upstreamtest.New(t), holds: make(chan *held, 1)}
	f.hub.AddImage("org/app", "v1", []byte("a layer"))
	// Each mirror could be the front one: their IDs are known when they run.
	addrs := []string{testutil.FreeAddr(t), testutil.FreeAddr(t)}
	mirrors, ids := make([]*harness.Weir, 2), make([]string, 2)
	for i := range mirrors {
		between := httptest.NewServer(f.way(addrs[1-i]))
		t.Cleanup(between.Close)
		mirrors[i] = harness.StartWeir(t, listening(addrs[i])+block("hub", f.hub)+blockOf("next", nil, []string{fmt.Sprintf("url = %q", between.URL+"/hub")}))
		expect(t, "the mirror shows its ID", mirrors[i].Get(t, manifestPath("hub/org/app", "v1")), http.StatusOK, "")
		asked := f.hub.Log()
		ids[i] = regexp.MustCompile(`weir-\w+`).FindString(asked[len(asked)-1].Header.Get("Via"))
	}
	front := 0
	if ids[1] > ids[0] {
		front = 1
	}
	f.front, f.frontID, f.backID = mirrors[front], ids[front], ids[1-front]
	if f.backID == "" {
		t.Fatal("a mirror has no ID")
	}
	// The front mirror learns that its upstream is another one.
	expect(t, "through both", f.front.Get(t, manifestPath("next/org/app", "v1")), http.StatusOK, "")
	return f
}

// way is the way to the mirror at an address.
func (f *fleet) way(addr string) http.Handler {
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: addr})
	proxy.ErrorLog = log.New(io.Discard, "", 0) // of lookups that the mirror ends
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case h := <-f.holds:
			if !strings.Contains(r.URL.Path, h.repo) {
				f.holds <- h
				break
			}
			close(h.arrived)
			select {
			case <-h.open:
			case <-r.Context().Done():
			}
		default:
		}
		proxy.ServeHTTP(w, r)
	})
}
