package namespace_test

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/internal/via"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

func prefetch(s *namespace.Spec) { s.Prefetch = true }

// layersOf makes layers of 100 KiB that differ by their seed.
func layersOf(n, seed int) [][]byte {
	layers := make([][]byte, n)
	for i := range layers {
		layers[i], _ = io.ReadAll(upstreamtest.RandomBlob(100<<10, uint64(seed+i)))
	}
	return layers
}

// readBlob pulls a range of a blob; an end of -1 is its own.
func (m *mirror) readBlob(n *namespace.Namespace, dgst digest.Digest, start, end int64) (namespace.CacheStatus, error) {
	m.t.Helper()
	b, err := n.Blob(m.t.Context(), "app", dgst, start, end)
	if err != nil {
		return namespace.None, err
	}
	defer b.Content.Close()
	_, err = io.Copy(io.Discard, b.Content)
	return b.Cache, err
}

// readManifest pulls a manifest as a client does.
func (m *mirror) readManifest(n *namespace.Namespace, ref string) {
	m.t.Helper()
	a, err := n.Manifest(m.t.Context(), "app", reference(m.t, ref))
	if err != nil {
		m.t.Fatal(err)
	}
	a.Content.Close()
}

// settle waits until no download and no prefetch is under way.
func (m *mirror) settle() {
	m.t.Helper()
	synctest.Wait()
	time.Sleep(time.Second) // of the bubble's clock
	synctest.Wait()
	if err := m.downloads.Drain(m.t.Context()); err != nil {
		m.t.Error(err)
	}
}

// blobsAsked returns how often each of some blobs was asked for, in this order.
func blobsAsked(r *upstreamtest.Registry, layers [][]byte) (times []int) {
	for _, layer := range layers {
		n := 0
		for _, request := range r.Requests() {
			if strings.Contains(request, digest.FromBytes(layer).String()) {
				n++
			}
		}
		times = append(times, n)
	}
	return times
}

// A pull of an image costs the upstream the same requests with prefetch as without, and the
// client finds its layers here.
func TestPrefetch(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		layers := layersOf(4, 1)
		r.AddImage("app", "v1", append(slices.Clone(layers), layers[1])...) // one layer is there twice
		n := m.namespace("up.example", r, prefetch)
		m.readManifest(n, "v1")
		if _, err := m.readBlob(n, digest.FromBytes(layers[0]), 0, -1); err != nil {
			t.Fatal(err)
		}
		m.settle()
		if got := blobsAsked(r, layers); !slices.Equal(got, []int{1, 1, 1, 1}) {
			t.Errorf("after the first layer, the layers were asked for %v times", got)
		}
		for _, layer := range layers[1:] {
			if status, err := m.readBlob(n, digest.FromBytes(layer), 0, -1); err != nil || status != namespace.Hit {
				t.Errorf("a later layer: %v, %v", status, err)
			}
		}
		if len(r.Requests()) != 5 { // and the manifest
			t.Errorf("the upstream was asked %v", r.Requests())
		}
		m.wantPrefetched(t, 300<<10, 0)
		time.Sleep(2 * time.Hour)
		m.wantPrefetched(t, 300<<10, 0)
	})
}

// Bytes that no client asks for within an hour are counted.
func TestPrefetchInVain(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		layers := layersOf(3, 1)
		r.AddImage("app", "v1", layers...)
		n := m.namespace("up.example", r, prefetch)
		m.readManifest(n, "v1")
		for _, i := range []int{0, 2} {
			if _, err := m.readBlob(n, digest.FromBytes(layers[i]), 0, -1); err != nil {
				t.Fatal(err)
			}
			m.settle()
		}
		m.wantPrefetched(t, 200<<10, 0)
		time.Sleep(time.Hour)
		m.wantPrefetched(t, 200<<10, 100<<10)
	})
}

// A layer that a second image shares is still watched for the first one.
func TestPrefetchInVainOfTwoImages(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		layers := layersOf(4, 1)
		r.AddImage("app", "v1", layers[0], layers[1])
		r.AddImage("app", "v2", layers[2], layers[1], layers[3])
		n := m.namespace("up.example", r, prefetch)
		for tag, first := range map[string]int{"v1": 0, "v2": 2} {
			m.readManifest(n, tag)
			if _, err := m.readBlob(n, digest.FromBytes(layers[first]), 0, -1); err != nil {
				t.Fatal(err)
			}
			m.settle()
		}
		m.wantPrefetched(t, 200<<10, 0)
		time.Sleep(time.Hour)
		m.wantPrefetched(t, 200<<10, 200<<10)
	})
}

// Requests that are no pull of an image begin nothing.
func TestNoPrefetch(t *testing.T) {
	layers := layersOf(3, 1)
	first := digest.FromBytes(layers[0])
	whole := func(m *mirror, n *namespace.Namespace) (namespace.CacheStatus, error) {
		return m.readBlob(n, first, 0, -1)
	}
	for name, test := range map[string]struct {
		change func(*namespace.Spec)
		ask    func(m *mirror, n *namespace.Namespace) (namespace.CacheStatus, error)
	}{
		"a manifest alone": {prefetch, func(m *mirror, n *namespace.Namespace) (namespace.CacheStatus, error) {
			m.readManifest(n, "v1")
			m.readManifest(n, "v1")
			return namespace.None, nil
		}},
		"a layer alone": {prefetch, whole},
		"a HEAD of the manifest": {prefetch, func(m *mirror, n *namespace.Namespace) (namespace.CacheStatus, error) {
			if _, err := n.Head(m.t.Context(), "app", reference(m.t, "v1")); err != nil {
				return namespace.None, err
			}
			return whole(m, n)
		}},
		"the manifest of another image": {prefetch, func(m *mirror, n *namespace.Namespace) (namespace.CacheStatus, error) {
			m.readManifest(n, "other")
			return whole(m, n)
		}},
		"the manifest of another repository": {prefetch, func(m *mirror, n *namespace.Namespace) (namespace.CacheStatus, error) {
			a, err := n.Manifest(m.t.Context(), "copy", reference(m.t, "v1"))
			if err != nil {
				return namespace.None, err
			}
			a.Content.Close()
			return whole(m, n)
		}},
		"a range": {prefetch, func(m *mirror, n *namespace.Namespace) (namespace.CacheStatus, error) {
			m.readManifest(n, "v1")
			return m.readBlob(n, first, 0, 1000)
		}},
		"the end": {prefetch, func(m *mirror, n *namespace.Namespace) (namespace.CacheStatus, error) {
			m.readManifest(n, "v1")
			return m.readBlob(n, first, 1000, -1)
		}},
		"not configured": {func(*namespace.Spec) {}, func(m *mirror, n *namespace.Namespace) (namespace.CacheStatus, error) {
			m.readManifest(n, "v1")
			return whole(m, n)
		}},
		"a request of another mirror": {func(s *namespace.Spec) {
			prefetch(s)
			s.MayLeadToMirror = func() bool { return true }
		}, func(m *mirror, n *namespace.Namespace) (namespace.CacheStatus, error) {
			m.readManifest(n, "v1")
			b, err := n.Blob(via.With(m.t.Context(), via.Trail{"weir-a"}), "app", first, 0, -1)
			if err != nil {
				return namespace.None, err
			}
			defer b.Content.Close()
			_, err = io.Copy(io.Discard, b.Content)
			return b.Cache, err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMirror(t, 4, nil)
				r := m.registry("up.example")
				r.AddImage("app", "v1", layers...)
				r.AddImage("app", "other", layersOf(3, 100)...)
				r.AddImage("copy", "v1", layers...)
				if _, err := test.ask(m, m.namespace("up.example", r, test.change)); err != nil {
					t.Fatal(err)
				}
				m.settle()
				if got := blobsAsked(r, layers[1:]); !slices.Equal(got, []int{0, 0}) {
					t.Errorf("the other layers were asked for %v times", got)
				}
				m.wantPrefetched(t, 0, 0)
			})
		})
	}
}

// Layers that clients do not fetch from here are left out, and so are those of other platforms.
func TestPrefetchOfOtherLayers(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		layers := layersOf(4, 1)
		var descs []string
		for i, layer := range layers {
			more := ""
			if i == 1 {
				more = `,"urls":["https://elsewhere.example/layer"]`
			}
			mediaType := ocispec.MediaTypeImageLayerGzip
			if i == 2 {
				mediaType = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
			}
			descs = append(descs, fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d%s}`, mediaType, r.AddBlob("app", layer), len(layer), more))
		}
		config := r.AddBlob("app", []byte("{}"))
		body := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":%q,"size":2},"layers":[%s]}`,
			ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageConfig, config, strings.Join(descs, ","))
		here := r.AddManifest("app", "", ocispec.MediaTypeImageManifest, []byte(body))
		others := layersOf(2, 100)
		r.AddIndex("app", "v1", here, r.AddImage("app", "arm64", others...))
		n := m.namespace("up.example", r, prefetch)
		m.readManifest(n, "v1")
		m.readManifest(n, here.Digest.String())
		if _, err := m.readBlob(n, digest.FromBytes(layers[0]), 0, -1); err != nil {
			t.Fatal(err)
		}
		m.settle()
		if got := blobsAsked(r, append(layers, others...)); !slices.Equal(got, []int{1, 0, 0, 1, 0, 0}) {
			t.Errorf("the layers were asked for %v times", got)
		}
	})
}

// After a failure no further layer is prefetched, which costs neither the client an answer nor the
// upstream a second request.
func TestPrefetchFails(t *testing.T) {
	for name, effect := range map[string]upstreamtest.Effect{
		"not found":    upstreamtest.Status(404, `{"errors":[{"code":"BLOB_UNKNOWN"}]}`),
		"rate limited": upstreamtest.Status(429, ""),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mirror) {
				r := m.registry("up.example")
				layers := layersOf(9, 1)
				r.AddImage("app", "v1", layers...)
				for _, layer := range layers[1:] {
					r.Fault(upstreamtest.Path(digest.FromBytes(layer).String()), effect)
				}
				n := m.namespace("up.example", r, prefetch, negativeTTL(time.Minute))
				m.readManifest(n, "v1")
				if _, err := m.readBlob(n, digest.FromBytes(layers[0]), 0, -1); err != nil {
					t.Fatal(err)
				}
				m.settle()
				if _, err := m.readBlob(n, digest.FromBytes(layers[1]), 0, -1); err == nil {
					t.Error("a layer that the upstream does not deliver")
				}
				// Three begin at once, unless the first failure is earlier, and those behind them never.
				if got := blobsAsked(r, layers); slices.Max(got[1:4]) != 1 || slices.Max(got) > 1 || slices.Max(got[4:]) > 0 {
					t.Errorf("the layers were asked for %v times", got)
				}
			})
		})
	}
}

// The layers of a manifest are looked for once, and not by the request for each of them.
func TestPrefetchLooksOnce(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		layers := layersOf(4, 1)
		r.AddImage("app", "v1", layers...)
		n := m.namespace("up.example", r, prefetch)
		m.readManifest(n, "v1")
		if _, err := m.readBlob(n, digest.FromBytes(layers[0]), 0, -1); err != nil {
			t.Fatal(err)
		}
		m.settle()
		// A download begins that is not one of the layers.
		opened := m.store.Calls("Open")
		if _, err := m.readBlob(n, r.AddBlob("app", []byte("beside")), 0, -1); err != nil {
			t.Fatal(err)
		}
		m.settle()
		first := m.store.Calls("Open") - opened
		// The client reads the manifest again, so its layers are looked for again.
		m.readManifest(n, "v1")
		opened = m.store.Calls("Open")
		if _, err := m.readBlob(n, r.AddBlob("app", []byte("another")), 0, -1); err != nil {
			t.Fatal(err)
		}
		m.settle()
		if again := m.store.Calls("Open") - opened; again != first+1 {
			t.Errorf("the store was asked %d times, and %d times with a look at the manifest", first, again)
		}
	})
}

// After a prefetch that ended early, a later layer begins another one.
func TestPrefetchBeginsAgain(t *testing.T) {
	bubble(t, func(t *testing.T, m *mirror) {
		r := m.registry("up.example")
		layers := layersOf(6, 1)
		r.AddImage("app", "v1", layers...)
		// As many as a job downloads at once, so that it begins no further one.
		var broken []*upstreamtest.Fault
		for _, layer := range layers[1:4] {
			broken = append(broken, r.Fault(upstreamtest.Path(digest.FromBytes(layer).String()), upstreamtest.Status(404, `{"errors":[{"code":"BLOB_UNKNOWN"}]}`)))
		}
		n := m.namespace("up.example", r, prefetch)
		m.readManifest(n, "v1")
		if _, err := m.readBlob(n, digest.FromBytes(layers[0]), 0, -1); err != nil {
			t.Fatal(err)
		}
		m.settle()
		if got := blobsAsked(r, layers[4:]); !slices.Equal(got, []int{0, 0}) {
			t.Fatalf("the last layers were asked for %v times", got)
		}
		for _, fault := range broken {
			fault.Remove()
		}
		if _, err := m.readBlob(n, digest.FromBytes(layers[4]), 0, -1); err != nil {
			t.Fatal(err)
		}
		m.settle()
		if got := blobsAsked(r, layers[4:]); !slices.Equal(got, []int{1, 1}) {
			t.Errorf("after a later layer, the last ones were asked for %v times", got)
		}
	})
}

// wantPrefetched compares the counters of the block up.example.
func (m *mirror) wantPrefetched(t *testing.T, all, unused float64) {
	t.Helper()
	_, families := m.gather(t)
	got := map[string]float64{}
	for _, family := range families {
		if strings.HasPrefix(family.GetName(), "weir_prefetched_") {
			got[family.GetName()] = family.GetMetric()[0].GetCounter().GetValue()
		}
	}
	if got["weir_prefetched_bytes_total"] != all || got["weir_prefetched_unused_bytes_total"] != unused || len(got) != 2 {
		t.Errorf("counted %v, want %v and %v", got, all, unused)
	}
}
