package evict_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage/evict"
	"github.com/weirhq/weir/storage/memcache"
)

func descriptor(dgst digest.Digest) ocispec.Descriptor { return ocispec.Descriptor{Digest: dgst} }

func document(t *testing.T, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	must(t, err)
	return text
}

// image stores an image with two layers and returns all its blobs, the
// manifest first.
func (l *limited) image(tag string) []digest.Digest {
	l.t.Helper()
	config := l.put(document(l.t, ocispec.Image{Author: tag, Config: ocispec.ImageConfig{Env: []string{"A=B"}}}))
	layers := []digest.Digest{l.add(1000), l.add(1000)}
	manifest := l.put(document(l.t, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, Config: descriptor(config),
		Layers: []ocispec.Descriptor{descriptor(layers[0]), descriptor(layers[1])},
	}))
	return append([]digest.Digest{manifest, config}, layers...)
}

func (l *limited) index(manifests ...digest.Digest) digest.Digest {
	l.t.Helper()
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}}
	for _, m := range manifests {
		index.Manifests = append(index.Manifests, descriptor(m))
	}
	return l.put(document(l.t, index))
}

func TestUsesWhatAManifestRefersTo(t *testing.T) {
	for _, how := range []string{"manifest", "index"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLimited(t, 0, evict.Options{MaxUnused: 24 * time.Hour})
				kept := l.image("kept")
				pulled := kept[0]
				if how == "index" {
					pulled = l.index(kept[0], digest.FromString("of another platform"))
					kept = append(kept, pulled)
				}
				l.image("idle")
				for range 3 {
					time.Sleep(20 * time.Hour)
					l.use(pulled)
				}
				l.expectOnly("pulled every day", kept...)
			})
		})
	}
}

// The same when there is no time between a manifest's use and an eviction.
// Contents that a used manifest refers to and the store does not have are told: they may be
// elsewhere.
func TestReferred(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		told := map[digest.Digest]bool{}
		l := newLimited(t, 0, evict.Options{Referred: func(dgst digest.Digest) {
			mu.Lock()
			defer mu.Unlock()
			told[dgst] = true
		}})
		all := l.image("pulled")
		gone := digest.FromString("of another platform")
		index := l.index(all[0], gone)
		l.use(index)
		time.Sleep(time.Minute)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if len(told) != 1 || !told[gone] {
			t.Errorf("told %v, want %s", told, gone)
		}
	})
}

func TestFollowsBeforeItEvicts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimited(t, 6000, evict.Options{})
		kept := l.image("kept")
		filler := []digest.Digest{l.add(1000), l.add(1000), l.add(1000)}
		_, err := l.Stat(t.Context(), kept[0])
		must(t, err)
		more := l.add(1000)
		l.expectOnly("one that was not used went", append(kept, filler[1], filler[2], more)...)
	})
}

// A manifest of any size that the mirror takes is followed; larger blobs are not
// even opened.
func TestFollowsManifestsUpToTheLimit(t *testing.T) {
	for _, c := range []struct {
		limit  int64 // 0: the default
		change int64 // to that limit while the store is open; 0: none
		size   int
		follow bool
	}{
		{size: oci.DefaultMaxManifest, follow: true},
		{size: oci.DefaultMaxManifest + 1},
		{limit: 1000, size: 1000, follow: true},
		{limit: 1000, size: 1001},
		{limit: 16 << 20, size: 8<<20 + 1, follow: true},
		{limit: 16 << 20, size: 16 << 20, follow: true},
		{limit: 16 << 20, size: 16<<20 + 1},
		{limit: 1000, change: 2000, size: 2000, follow: true},
		{limit: 2000, change: 1000, size: 1001},
	} {
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLimited(t, 0, evict.Options{MaxUnused: 24 * time.Hour, MaxManifest: c.limit})
				if c.change > 0 {
					l.SetMaxManifest(c.change)
				}
				layer := l.add(100)
				text := document(t, ocispec.Manifest{Layers: []ocispec.Descriptor{descriptor(layer)}})
				text = append(text, bytes.Repeat([]byte(" "), c.size-len(text))...)
				manifest := l.put(text)
				opens := l.memory.Calls("Open")
				for range 3 {
					time.Sleep(20 * time.Hour)
					l.use(manifest)
				}
				if c.follow {
					l.expectOnly("pulled every day", manifest, layer)
				} else {
					l.expectOnly("pulled every day, but too large", manifest)
					if n := l.memory.Calls("Open") - opens; n != 0 {
						t.Errorf("it was opened %d times", n)
					}
				}
			})
		})
	}
}

// Across a restart too.
func TestOrderSurvivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := t.TempDir()
		var kept, layer, used digest.Digest
		func() {
			quota := evict.NewQuota(0)
			s := openDisk(t, root, quota)
			l := evict.New(memcache.New(s, memcache.Options{MaxBytes: 1 << 20, MaxObject: 1 << 10}), quota, evict.Options{Touch: s.Touch})
			layer = put(t, l, s.Spools(), bytes.Repeat([]byte("l"), 1000))
			kept = put(t, l, s.Spools(), document(t, ocispec.Manifest{Layers: []ocispec.Descriptor{descriptor(layer)}}))
			used = put(t, l, s.Spools(), bytes.Repeat([]byte("u"), 1000))
			put(t, l, s.Spools(), bytes.Repeat([]byte("i"), 1000))
			time.Sleep(time.Hour)
			_, err := l.Stat(t.Context(), used)
			must(t, err)
			time.Sleep(time.Second)
			_, err = l.Stat(t.Context(), kept)
			must(t, err)
			must(t, l.Close())
		}()
		s := openDisk(t, root, nil)
		for _, step := range []struct {
			max  int64
			left []digest.Digest
		}{{3000, []digest.Digest{layer, kept, used}}, {2000, []digest.Digest{layer, kept}}} {
			l := evict.New(s, evict.NewQuota(step.max), evict.Options{Touch: s.Touch})
			synctest.Wait()
			expectStored(t, fmt.Sprint("a cap of ", step.max), s, step.left...)
			must(t, l.Close())
		}
	})
}

func TestTouchesOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimited(t, 0, evict.Options{})
		a, b := l.add(100), l.add(100)
		time.Sleep(2 * time.Minute)
		before := l.memory.Calls("Touch")
		for range 200 {
			l.use(a)
		}
		time.Sleep(time.Hour)
		if n := l.memory.Calls("Touch") - before; n < 3 || n > 4 {
			t.Errorf("%d touches in 200 seconds, want one a minute", n)
		}
		before = l.memory.Calls("Touch")
		now := time.Now()
		l.use(b)
		must(t, l.Store.Close())
		if n := l.memory.Calls("Touch") - before; n != 1 {
			t.Errorf("%d touches at Close, want one", n)
		}
		for entry, err := range l.memory.All(t.Context()) {
			must(t, err)
			if entry.Digest == b && !entry.Used.Equal(now) {
				t.Errorf("used at %v, want %v", entry.Used, now)
			}
		}
	})
}

// Content that is no manifest is read once, however often it is used.
func TestLooksIntoContentOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimited(t, 0, evict.Options{})
		for name, content := range map[string]string{
			"gzip": "\x1f\x8b", "an image's config": `{"config":{"Env":[]}}`, "a list": `[]`, "empty": "", "odd": `{"layers":"all"}`,
			"hostile": `{"layers":[{"digest":"sha256:../../etc/passwd"}]}`, "manifest": `{"layers":[{"digest":"` + digest.FromString("x").String() + `"}]}`,
		} {
			dgst := l.put([]byte(content))
			l.use(dgst)
			before := l.memory.Calls("Open")
			for range 10 {
				l.use(dgst)
			}
			if n := l.memory.Calls("Open") - before; n != 0 {
				t.Errorf("%s: read %d more times", name, n)
			}
		}
	})
}
