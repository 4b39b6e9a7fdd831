package registry_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// series returns the value of every counter, and of histograms the count, by the
// metric's name and the values of its labels in the order of the labels' names.
func (m *mirror) series() map[string]float64 {
	m.t.Helper()
	families, err := m.gatherer.Gather()
	if err != nil {
		m.t.Fatal(err)
	}
	all := make(map[string]float64)
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			name := []string{family.GetName()}
			for _, label := range metric.GetLabel() {
				name = append(name, label.GetValue())
			}
			all[strings.Join(name, " ")] = metric.GetCounter().GetValue() + metric.GetGauge().GetValue() + float64(metric.GetHistogram().GetSampleCount())
		}
	}
	return all
}

// A namespace's series are there before its first request, and go with it: what
// is still under way then brings none of them back.
func TestSeriesFollowTheTable(t *testing.T) {
	r := upstreamtest.New(t)
	other := block(t, upstreamtest.New(t), func(s *namespace.Spec) { s.Key, s.Host = "other.example", "" })
	gone := block(t, r)
	m := newMirror(t, gone, other)
	of := func(key string) (n int) {
		for name, value := range m.series() {
			if strings.Contains(" "+name+" ", " "+key+" ") {
				n++
				if value != 0 {
					t.Errorf("%s is %v", name, value)
				}
			}
		}
		return n
	}
	before := m.series()
	for _, name := range []string{ // cache or reason, namespace, operation, status
		"weir_requests_total hit up.example blob 206",
		"weir_requests_total collapsed up.example manifest 200",
		"weir_requests_total stale up.example tags 200",
		"weir_requests_total none up.example manifest 429",
		"weir_requests_total none up.example blob 502",
		"weir_requests_total none up.example other 401",
		"weir_request_duration_seconds up.example manifest",
		"weir_served_bytes_total miss up.example",
		"weir_stale_answers_total up.example not_found",
		"weir_requests_aborted_total up.example",
	} {
		if value, ok := before[name]; !ok || value != 0 {
			t.Errorf("%s is %v, %v at the start", name, value, ok)
		}
	}
	whole := of("up.example")
	if whole == 0 || of("other.example") != whole {
		t.Errorf("%d series of one namespace, %d of the other", whole, of("other.example"))
	}

	gate := upstreamtest.NewGate()
	r.Fault(upstreamtest.Any, upstreamtest.Hold(gate), upstreamtest.Status(http.StatusTeapot, ""))
	done := make(chan int)
	go func() { done <- m.do("GET", "/v2/up.example/app/manifests/v1").Code }()
	if err := gate.Arrived(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	m.serve(other)
	if n := of("up.example"); n != 0 {
		t.Errorf("%d series of a namespace that is gone", n)
	}
	gate.Open()
	<-done
	if n := of("up.example"); n != 0 || of("other.example") != whole {
		t.Errorf("afterwards: %d series of the one, %d of the other", n, of("other.example"))
	}
	m.serve(gone, other)
	if n := of("up.example"); n != whole {
		t.Errorf("%d series of a namespace that is back, want %d", n, whole)
	}
}

// Each stale answer is counted by how the upstream failed.
func TestStaleAnswersAreCountedByReason(t *testing.T) {
	r, m := pair(t, func(s *namespace.Spec) {
		s.ServeStaleOn = []upstream.Class{upstream.ClassUnavailable, upstream.ClassRateLimited, upstream.ClassDenied, upstream.ClassNotFound}
	})
	r.AddImage("app", "v1", []byte("a layer"))
	m.do("GET", "/v2/up.example/app/manifests/v1")
	m.do("GET", "/v2/up.example/app/tags/list")
	for _, c := range []struct {
		status int
		reason string
	}{{404, "not_found"}, {403, "denied"}, {500, "unavailable"}, {429, "rate_limited"}} {
		r.ClearFaults()
		r.Fault(upstreamtest.Any, upstreamtest.Status(c.status, ""))
		before := m.series()
		for _, request := range []string{"GET manifests/v1", "HEAD manifests/v1", "GET tags/list"} {
			method, path, _ := strings.Cut(request, " ")
			if w := m.do(method, "/v2/up.example/app/"+path); w.Header().Get("Cache-Status") != "weir; hit; detail=stale" {
				t.Errorf("%d: %s: %d %v", c.status, request, w.Code, w.Header())
			}
		}
		m.settle()
		after := m.series()
		for _, reason := range []string{"not_found", "denied", "unavailable", "rate_limited"} {
			name := "weir_stale_answers_total up.example " + reason
			want := 0.0
			if reason == c.reason {
				want = 3
			}
			if got := after[name] - before[name]; got != want {
				t.Errorf("%d: %s rose by %v, want %v", c.status, name, got, want)
			}
		}
	}
}

// An answer that breaks off is told from one that the client did not wait for.
func TestAbortedAnswersAreCounted(t *testing.T) {
	r, m := pair(t)
	r.AddRandomBlob("app", 2<<20, 1)
	base := m.server().URL + "/v2/up.example/app/blobs/"
	const counter = "weir_requests_aborted_total up.example"
	get := func(seed uint64) (*http.Response, error) {
		return client(t, false).Get(base + r.AddRandomBlob("app", 2<<20, seed).String())
	}
	gate := upstreamtest.NewGate()
	r.Fault(upstreamtest.Blobs, upstreamtest.StallAfter(1<<20, gate)).Times(1)
	resp, err := get(2)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close() // the client leaves
	const all = "weir_requests_total miss up.example blob 200"
	// A real connection's end is noticed when the kernel says so, and only the
	// counter tells of it.
	for deadline := time.Now().Add(10 * time.Second); m.series()[all] == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the request does not end")
		}
	}
	if got := m.series()[counter]; got != 0 {
		t.Errorf("%v aborted answers where the client has left", got)
	}
	gate.Open()
	r.Fault(upstreamtest.Blobs, upstreamtest.Corrupt(2<<20-1))
	resp, err = get(3)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err == nil {
		t.Error("a corrupt answer came whole")
	}
	if got := m.series(); got[counter] != 1 || got[all] != 2 {
		t.Errorf("%v of %v answers aborted, want 1 of 2", got[counter], got[all])
	}
}
