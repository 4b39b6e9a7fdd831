package namespace_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// Long documents of a registry that does not end them delay no other registry, and none of
// its own short ones.
func TestLongDocumentsTakeTurns(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		slow, other := m.registry("slow.example"), m.registry("other.example")
		add := func(r *upstreamtest.Registry, tag string) ocispec.Descriptor {
			return r.AddManifest("app", tag, ocispec.MediaTypeImageIndex,
				fmt.Appendf(nil, `{"schemaVersion":2,"manifests":[],"annotations":{"a":"%s%s"}}`, tag, strings.Repeat("x", 400<<10)))
		}
		gate := upstreamtest.NewGate()
		slow.Fault(upstreamtest.Path("/long"), upstreamtest.StallAfter(300<<10, gate))
		a, b := m.namespace("slow.example", slow), m.namespace("other.example", other)
		var ended atomic.Int32
		for i := range 5 {
			tag := fmt.Sprint("long", i)
			want := add(slow, tag)
			go func() {
				if got := get(t, a, "app", tag); got.err != nil || got.desc.Digest != want.Digest {
					t.Errorf("%s: %+v", tag, got)
				}
				ended.Add(1)
			}()
		}
		synctest.Wait()
		// The others wait before the rest of a long one is read.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if gate.Arrived(ctx, 2) == nil {
			t.Error("two long manifests of one registry are read at once")
		}
		for i := range 5 {
			tag := fmt.Sprint("long", i)
			want := add(other, tag)
			wantManifest(t, get(t, b, "app", tag), namespace.Miss, want)
		}
		image := slow.AddImage("app", "v1", []byte("a layer"))
		wantManifest(t, get(t, a, "app", "v1"), namespace.Miss, image)
		if n := ended.Load(); n != 0 {
			t.Errorf("%d slow manifests have ended before the gate is open", n)
		}
		gate.Open()
		synctest.Wait()
		if n := ended.Load(); n != 5 {
			t.Errorf("%d slow manifests have ended", n)
		}
	})
}

// Long documents that drip, from as many registries as there are places, keep those of
// another registry away for some seconds only. While no other one wants a place, they go on.
func TestDrippingDocumentsYield(t *testing.T) {
	for name, slowly := range map[string]func(*upstreamtest.Gate) upstreamtest.Effect{
		// Above the lowest speed of all documents, 16 KiB/s.
		"drip":   func(*upstreamtest.Gate) upstreamtest.Effect { return upstreamtest.Drip(20 << 10) },
		"silent": func(gate *upstreamtest.Gate) upstreamtest.Effect { return upstreamtest.StallAfter(1<<20, gate) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testSlowDocuments(t, slowly)
		})
	}
}

func testSlowDocuments(t *testing.T, slowly func(*upstreamtest.Gate) upstreamtest.Effect) {
	bubble(t, func(t *testing.T, m *mirror) {
		gate := upstreamtest.NewGate()
		long := func(r *upstreamtest.Registry) ocispec.Descriptor {
			return r.AddManifest("app", "long", ocispec.MediaTypeImageIndex,
				fmt.Appendf(nil, `{"schemaVersion":2,"manifests":[],"annotations":{"a":"%s"}}`, strings.Repeat("x", 4<<20)))
		}
		var slow, ended sync.WaitGroup
		var failed atomic.Int32
		for i := range 4 {
			r := m.registry(fmt.Sprintf("slow%d.example", i))
			want := long(r)
			r.Fault(upstreamtest.Path("/manifests/"), slowly(gate))
			c := upstream.NewClient(upstream.Options{URL: r.URL, ConnectTimeout: time.Second, ReadTimeout: 5 * time.Minute, DialContext: m.network.DialContext})
			t.Cleanup(c.Close)
			n := m.namespace(r.Host, r, func(s *namespace.Spec) { s.Upstreams = c })
			slow.Go(func() {
				if got := get(t, n, "app", "long"); got.err != nil {
					failed.Add(1)
				} else if got.desc.Digest != want.Digest {
					t.Errorf("%+v", got)
				}
			})
		}
		time.Sleep(time.Second)
		synctest.Wait()
		r := m.registry("quick.example")
		want := long(r)
		n := m.namespace("quick.example", r)
		began := time.Now()
		ended.Go(func() { wantManifest(t, get(t, n, "app", "long"), namespace.Miss, want) })
		ended.Wait()
		if took := time.Since(began); took > 40*time.Second {
			t.Errorf("a document of another registry took %s", took)
		}
		gate.Open()
		slow.Wait()
		if n := failed.Load(); n == 0 || n == 4 {
			t.Errorf("%d slow documents have failed", n)
		}
	})
}
