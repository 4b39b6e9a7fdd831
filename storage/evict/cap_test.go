package evict_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/evict"
	"github.com/weirhq/weir/storage/memcache"
	"github.com/weirhq/weir/storage/storagetest"
)

// bytesBelow returns how many bytes the files below a directory have.
func bytesBelow(t *testing.T, root string) (n int64) {
	t.Helper()
	err := filepath.WalkDir(root, func(_ string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it has just gone
		}
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		if info, err := entry.Info(); err == nil {
			n += info.Size()
		}
		return nil
	})
	must(t, err)
	return n
}

// The cap holds at every moment, with downloads of known and of unknown sizes,
// readers that stay, and pulls of stored content.
func TestHoldsTheCap(t *testing.T) {
	const limit = 8 << 20
	root := t.TempDir()
	quota := evict.NewQuota(limit)
	s := openDisk(t, root, quota)
	l := evict.New(memcache.New(s, memcache.Options{MaxBytes: 1 << 20, MaxObject: 1 << 10}), quota, evict.Options{Touch: s.Touch})
	downloads := newDownloads(t, l, s.Spools())

	var origins []*origin
	for i := range 40 {
		origins = append(origins, &origin{body: random(256<<10 + rand.IntN(1<<20)), noSize: i%4 == 0})
	}
	stop := make(chan struct{})
	var sampling sync.WaitGroup
	sampling.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if got := l.Usage(); got.Stored+got.Reserved > limit || got.Pinned > got.Stored {
				t.Errorf("%+v of %d", got, limit)
				return
			}
			runtime.Gosched()
		}
	})
	var clients sync.WaitGroup
	for client := range 6 {
		clients.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(client)))
			for range 15 {
				o := origins[r.IntN(len(origins))]
				if got := pullThrough(t, downloads, o); !bytes.Equal(got, o.body) {
					t.Errorf("%d bytes that are not the %d of the content", len(got), len(o.body))
				}
			}
		})
	}
	clients.Wait()
	must(t, downloads.Drain(t.Context()))
	close(stop)
	sampling.Wait()
	must(t, l.Close()) // what is just being evicted has gone then
	got := l.Usage()
	if got.Reserved != 0 || got.Pinned != 0 || got.Objects == 0 {
		t.Errorf("%+v when all is quiet", got)
	}
	if stored := bytesBelow(t, root); stored != got.Stored {
		t.Errorf("%d bytes are on disk, %d are counted", stored, got.Stored)
	}
}

// Content that does not fit is streamed past the store, which keeps its own.
func TestStreamsPast(t *testing.T) {
	for _, noSize := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			l := newLimited(t, 1<<20, evict.Options{})
			kept := l.add(1000)
			downloads := newDownloads(t, l, l.memory.Spools())
			object, err := l.Open(t.Context(), kept)
			must(t, err)
			o := &origin{body: random(1<<20 + 1), noSize: noSize}
			for range 3 {
				if got := pullThrough(t, downloads, o); !bytes.Equal(got, o.body) {
					t.Errorf("read %d bytes of %d", len(got), len(o.body))
				}
			}
			must(t, downloads.Drain(t.Context()))
			must(t, object.Content.Close())
			l.expectOnly("too large", kept)
			l.expectUsage("all is given back", evict.Usage{Stored: 1000, Objects: 1})
		})
	}
}

// countingFile counts what is read from a file by its Read method, which the
// kernel does not call.
type countingFile struct {
	io.ReadSeeker
	syscall.Conn
	read int
}

func (f *countingFile) Read(p []byte) (int, error) {
	n, err := f.ReadSeeker.Read(p)
	f.read += n
	return n, err
}

// A blob on disk is sent by the kernel although closing it does more than to
// close the file.
func TestKeepsSendfile(t *testing.T) {
	quota := evict.NewQuota(0)
	s := openDisk(t, t.TempDir(), quota)
	l := evict.New(memcache.New(s, memcache.Options{MaxBytes: 1 << 20, MaxObject: 1 << 10}), quota, evict.Options{})
	defer func() { must(t, l.Close()) }()
	content := random(8 << 20)
	large := storagetest.Commit(t, l, s.Spools(), content)
	small := storagetest.Commit(t, l, s.Spools(), []byte("in memory"))

	object, err := l.Open(t.Context(), small)
	must(t, err)
	if _, ok := object.Content.(syscall.Conn); ok {
		t.Error("what is in memory pretends to be a file")
	}
	must(t, object.Content.Close())

	object, err = l.Open(t.Context(), large)
	must(t, err)
	file, ok := object.Content.(syscall.Conn)
	if !ok {
		t.Fatalf("%T is no file to the kernel", object.Content)
	}
	counting := &countingFile{ReadSeeker: object.Content, Conn: file}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(w, r, "", time.Time{}, counting)
	})}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + listener.Addr().String())
	must(t, err)
	got, err := io.ReadAll(resp.Body)
	must(t, errors.Join(err, resp.Body.Close(), server.Close()))
	<-served
	must(t, object.Content.Close())
	if !bytes.Equal(got, content) {
		t.Errorf("%d bytes that are not the content", len(got))
	}
	// net/http reads the start itself, before it has sent the header.
	if counting.read > 4096 {
		t.Errorf("%d of %d bytes went through user space", counting.read, len(content))
	}
	if _, err := object.Content.Read(make([]byte, 1)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("reading after Close: %v", err)
	}
}

func BenchmarkStore(b *testing.B) {
	quota := evict.NewQuota(1 << 30)
	m := storagetest.NewMemoryWithin(b, quota)
	hot := memcache.New(m, memcache.Options{MaxBytes: 1 << 20, MaxObject: 1 << 10})
	l := evict.New(hot, quota, evict.Options{Touch: m.Touch})
	b.Cleanup(func() { must(b, l.Close()) })
	ctx := b.Context()
	var all []digest.Digest
	for i := range 1000 {
		all = append(all, storagetest.Commit(b, l, m.Spools(), []byte{byte(i), byte(i >> 8)}))
	}
	for name, store := range map[string]storage.Store{"without": hot, "with": l} {
		b.Run("Stat/"+name, func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				if _, err := store.Stat(ctx, all[i%len(all)]); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("Open/"+name, func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				object, err := store.Open(ctx, all[i%len(all)])
				if err != nil {
					b.Fatal(err)
				}
				object.Content.Close()
			}
		})
	}
}
