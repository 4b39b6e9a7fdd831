package registry_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
)

// silent is a registry that answers nothing about the repository "slow".
type silent struct{ oci.Registry }

func (s silent) Manifest(ctx context.Context, repo string, ref oci.Reference) (*oci.Manifest, error) {
	if repo != "slow" {
		return s.Registry.Manifest(ctx, repo, ref)
	}
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

// While no lookup can begin, each operation is 503 with a time to come back, and a cached
// answer is stale for a reason of its own.
func TestBusy(t *testing.T) {
	r, m := pair(t, func(s *namespace.Spec) {
		s.Upstreams = silent{s.Upstreams}
		s.ServeStaleOn = []upstream.Class{upstream.ClassUnavailable}
	})
	r.AddImage("app", "v1", []byte("a layer"))
	wantStatus(t, m.do("GET", "/v2/up.example/app/manifests/v1"), http.StatusOK)
	clients, leave := context.WithCancel(t.Context())
	defer leave()
	n := m.tables.Load().Namespaces()[0]
	done := make(chan struct{})
	const lookups = 64 + 2048
	for i := range lookups {
		go func() {
			n.Manifest(clients, "slow", oci.ByTag(fmt.Sprint("v", i)))
			done <- struct{}{}
		}()
	}
	for deadline := time.Now().Add(time.Minute); m.series()["weir_lookups up.example waiting"] != 2048; {
		if time.Sleep(10 * time.Millisecond); time.Now().After(deadline) {
			t.Fatal("the queue is not full")
		}
	}
	if got := m.series()["weir_lookups up.example running"]; got != 64 {
		t.Errorf("%v lookups run, want 64", got)
	}
	before := m.series()
	for _, request := range []string{
		"GET manifests/v2", "HEAD manifests/v2", "GET manifests/" + digest.FromString("x").String(),
		"HEAD blobs/" + digest.FromString("x").String(), "GET other/tags/list", "GET referrers/" + digest.FromString("x").String(),
	} {
		method, path, _ := strings.Cut(request, " ")
		w := m.do(method, "/v2/up.example/app/"+path)
		wantStatus(t, w, http.StatusServiceUnavailable)
		wantHeader(t, w.Header(), "Retry-After", "2")
		if method == "GET" && !strings.Contains(w.Body.String(), `"code":"UNAVAILABLE","message":"too many lookups of up.example are under way. Try again later"`) {
			t.Errorf("%s: %s", request, w.Body)
		}
	}
	w := m.do("GET", "/v2/up.example/app/manifests/v1")
	wantStatus(t, w, http.StatusOK)
	wantHeader(t, w.Header(), "Cache-Status", "weir; hit; detail=stale")
	if got := w.Header().Get("Warning"); !strings.HasPrefix(got, `299 - "the mirror has too many lookups of up.example; served from the cache, last checked `) {
		t.Errorf("the warning is %s", got)
	}
	after := m.series()
	for name, want := range map[string]float64{
		"weir_stale_answers_total up.example busy":        1,
		"weir_stale_answers_total up.example unavailable": 0,
	} {
		if got := after[name] - before[name]; got != want {
			t.Errorf("%s rose by %v, want %v", name, got, want)
		}
	}
	leave()
	for range lookups {
		<-done
	}
	for m.series()["weir_lookups up.example running"] != 0 { // two seconds later
		time.Sleep(10 * time.Millisecond)
	}
}
