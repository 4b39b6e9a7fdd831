package namespace_test

import (
	"context"
	"math"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/oci"
)

// oneManifest is an upstream that costs hardly anything: all its tags name one manifest.
type oneManifest struct {
	oci.Registry
	manifest oci.Manifest
	gate     chan struct{} // a HEAD waits for its end
	heads    int
}

func newOneManifest() *oneManifest {
	body := []byte(`{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageManifest + `","layers":[]}`)
	return &oneManifest{manifest: oci.Manifest{Body: body, Descriptor: ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(body), Size: int64(len(body)),
	}}}
}

func (u *oneManifest) Head(context.Context, string, oci.Reference) (*oci.Manifest, error) {
	u.heads++
	<-u.gate
	return &oci.Manifest{Descriptor: u.manifest.Descriptor}, nil
}

func (u *oneManifest) Manifest(context.Context, string, oci.Reference) (*oci.Manifest, error) {
	m := u.manifest
	return &m, nil
}

// A request that joins the check of a tag allocates for its answer and for the keys of two
// records, and nothing to wait: no goroutine, channel, context or function.
func TestAllocationsOfJoiningRequests(t *testing.T) {
	const (
		clients = 64
		each    = 9  // four for keys, three for the opened content, one for the answer, and one to spare
		check   = 70 // once for all
	)
	bubble(t, func(t *testing.T, m *mirror) {
		up := newOneManifest()
		table, err := namespace.NewTable(m.cache, []namespace.Spec{{Key: "up.example", Upstreams: up, UpstreamHosts: []string{"up.example"}}})
		if err != nil {
			t.Fatal(err)
		}
		n, ref := table.Namespaces()[0], oci.ByTag("tag")
		ask := func() {
			answer, err := n.Manifest(t.Context(), "app", ref)
			if err != nil {
				t.Error(err)
				return
			}
			answer.Content.Close()
		}
		ask() // stored
		begin := make(chan bool)
		var answered, ended sync.WaitGroup
		for range clients {
			ended.Go(func() {
				for range begin {
					ask()
					answered.Done()
				}
			})
		}
		least := uint64(math.MaxUint64)
		var before, after runtime.MemStats
		const rounds = 10
		for range rounds {
			up.gate = make(chan struct{})
			synctest.Wait()
			runtime.ReadMemStats(&before)
			answered.Add(clients)
			for range clients {
				begin <- true
			}
			synctest.Wait() // all of them wait for one check
			close(up.gate)
			answered.Wait()
			runtime.ReadMemStats(&after)
			least = min(least, after.Mallocs-before.Mallocs)
		}
		close(begin)
		ended.Wait()
		if up.heads != rounds {
			t.Errorf("%d checks in %d rounds", up.heads, rounds)
		}
		if least > clients*each+check {
			t.Errorf("%d allocations of %d requests, want at most %d", least, clients, clients*each+check)
		}
	})
}
