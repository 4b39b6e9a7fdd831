package pulls_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/namespace/pulls"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/storage/storagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	app   = storage.RepoID{Namespace: "ghcr.io", Name: "acme/app"}
	image = digest.FromString("image")
	alice = pulls.Client{User: access.Name{Subject: "alice"}}
	node  = pulls.Client{Address: netip.MustParseAddr("192.0.2.7")}
)

// counting runs a test in fake time with a counter and its records.
func counting(t *testing.T, test func(t *testing.T, c *pulls.Counter, m *storagetest.Memory, records *catalog.Catalog)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := storagetest.NewMemory(t)
		records := catalog.New(m.Records(), catalog.Options{})
		c := pulls.New(pulls.Options{Records: records, Mirror: func() string { return "one" }})
		test(t, c, m, records)
		c.Close(context.Background())
	})
}

func of(t *testing.T, c *pulls.Counter) catalog.RepositoryPulls {
	t.Helper()
	got, err := c.Of(t.Context(), app)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// Pulls count at once, and are in the record after a minute or at the end.
func TestCounter(t *testing.T) {
	counting(t, func(t *testing.T, c *pulls.Counter, m *storagetest.Memory, records *catalog.Catalog) {
		c.Count(app, "v1", image, node)
		c.Count(app, "", image, alice)
		if got := of(t, c); got.All.Total != 2 || got.Tags["v1"].Total != 1 || got.Images[image].Total != 2 || len(got.Images[image].Clients) != 2 || m.Calls("Put") != 0 {
			t.Errorf("%+v after %d writings", got, m.Calls("Put"))
		}
		time.Sleep(61 * time.Second)
		synctest.Wait()
		if got, err := records.Pulls(t.Context(), app); err != nil || got.All.Total != 2 || m.Calls("Put") != 1 {
			t.Errorf("a minute later: %+v, %v, %d writings", got, err, m.Calls("Put"))
		}
		time.Sleep(10 * time.Minute) // nothing is written without a pull
		c.Count(app, "v1", image, alice)
		c.Close(t.Context())
		got, err := records.Pulls(t.Context(), app)
		if err != nil || got.All.Total != 3 || m.Calls("Put") != 2 {
			t.Errorf("at the end: %+v, %v, %d writings", got, err, m.Calls("Put"))
		}
		if names := got.All.Clients; len(names) != 2 || names[0].Name != "alice" || names[1].Name != "192.0.2.7" {
			t.Errorf("the clients are %+v", names)
		}
	})
}

// Records that cannot be written lose no pull.
func TestCounterKeepsWhatItCannotWrite(t *testing.T) {
	counting(t, func(t *testing.T, c *pulls.Counter, m *storagetest.Memory, records *catalog.Catalog) {
		m.FailPut(errors.New("disk full"))
		for range 3 {
			c.Count(app, "v1", image, alice)
			time.Sleep(61 * time.Second)
			synctest.Wait()
			c.Count(app, "v1", image, node)
		}
		if got := of(t, c); got.All.Total != 6 || len(got.All.Clients) != 2 {
			t.Errorf("%+v", got.All)
		}
		m.FailPut(nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		if got, err := records.Pulls(t.Context(), app); err != nil || got.All.Total != 6 || of(t, c).All.Total != 6 {
			t.Errorf("%+v, %v", got.All, err)
		}
	})
}

// Many images are written at once, and while they cannot be, no more than some thousand are in memory.
func TestCounterIsBounded(t *testing.T) {
	counting(t, func(t *testing.T, c *pulls.Counter, m *storagetest.Memory, _ *catalog.Catalog) {
		m.FailPut(errors.New("disk full"))
		for i := range 5000 {
			c.Count(storage.RepoID{Namespace: "ghcr.io", Name: fmt.Sprint("app", i/100)}, "", digest.FromString(fmt.Sprint(i)), alice)
		}
		synctest.Wait()
		if m.Calls("Put") == 0 {
			t.Error("nothing was written before a minute was over")
		}
		images := 0
		for i := range 50 {
			got, err := c.Of(t.Context(), storage.RepoID{Namespace: "ghcr.io", Name: fmt.Sprint("app", i)})
			if err != nil {
				t.Fatal(err)
			}
			images += len(got.Images)
		}
		if images != 4096 {
			t.Errorf("%d images had pulls in memory, want 4096", images)
		}
	})
}

// Names of clients are data of strangers.
func TestHostileClients(t *testing.T) {
	counting(t, func(t *testing.T, c *pulls.Counter, _ *storagetest.Memory, records *catalog.Catalog) {
		for _, subject := range []string{"\xff\xfe", strings.Repeat("é", 1000), `"},<script>`} {
			c.Count(app, "", image, pulls.Client{User: access.Name{Kind: "oidc", Issuer: "x", Subject: subject}})
		}
		c.Count(app, "", image, pulls.Client{}) // such as the peer of a Unix socket
		c.Close(t.Context())
		if got, err := records.Pulls(t.Context(), app); err != nil || got.All.Total != 4 || len(got.All.Clients) != 3 {
			t.Errorf("%+v, %v", got.All, err)
		}
	})
}

// A pull of an image that was pulled before allocates nothing.
func TestCountAllocates(t *testing.T) {
	m := storagetest.NewMemory(t)
	c := pulls.New(pulls.Options{Records: catalog.New(m.Records(), catalog.Options{}), Mirror: func() string { return "one" }})
	defer c.Close(t.Context())
	c.Count(app, "v1", image, alice)
	if n := testing.AllocsPerRun(100, func() { c.Count(app, "v1", image, alice) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Many images that one client pulls take little memory each: it remembers no ten clients of them.
func TestCountOfManyImages(t *testing.T) {
	m := storagetest.NewMemory(t)
	c := pulls.New(pulls.Options{Records: catalog.New(m.Records(), catalog.Options{}), Mirror: func() string { return "one" }})
	defer c.Close(t.Context())
	const images = 1000 // fewer than are written at once
	digests := make([]digest.Digest, images)
	for i := range digests {
		digests[i] = digest.FromString(fmt.Sprint(i))
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, dgst := range digests {
		c.Count(app, "", dgst, node)
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / images; each > 1000 {
		t.Errorf("an image takes %d bytes", each)
	}
}
