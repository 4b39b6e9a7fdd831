package evict_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/disk"
	"github.com/weirhq/weir/storage/download"
	"github.com/weirhq/weir/storage/evict"
	"github.com/weirhq/weir/storage/memcache"
	"github.com/weirhq/weir/storage/spool"
)

// Clients pull, read parts, cancel and delete at random from a store that is too
// small for all blobs, and some upstreams fail. Each byte that a client gets is
// right, and in the end every byte is counted once and nothing is left over.
func TestStress(t *testing.T) {
	const limit, clients, rounds = 3 << 20, 8, 60
	root := t.TempDir()
	quota := evict.NewQuota(limit)
	driver, err := disk.Open(root, disk.Options{Quota: quota, MinFree: 1})
	must(t, err)
	front := memcache.New(driver, memcache.Options{MaxBytes: 1 << 20, MaxObject: 64 << 10})
	store := evict.New(front, quota, evict.Options{MinFree: 1, Free: driver.Spools().Free, Touch: driver.Touch})
	store.SetShared(true) // by two repository blocks
	<-store.Loaded()

	var later sync.WaitGroup
	downloads := download.NewGroup(download.Options{
		Store: store, Spools: driver.Spools(), MaxFetches: 4,
		OnUnattended: func(d *download.Download) {
			switch rand.IntN(3) {
			case 0:
				d.Abandon()
			case 1:
				later.Go(func() { time.Sleep(rand.N(5 * time.Millisecond)); d.Abandon() })
			default:
				later.Go(func() { _ = d.Complete(context.Background()) })
			}
		},
	})
	var upstreams []*unreliable
	for range 24 {
		upstreams = append(upstreams, newUnreliable(rand.IntN(400<<10)))
	}
	var group sync.WaitGroup
	for range clients {
		group.Go(func() {
			for range rounds {
				u := upstreams[rand.IntN(len(upstreams))]
				switch rand.IntN(12) {
				case 0:
					_ = store.Delete(t.Context(), u.digest)
				case 1:
					_, _ = store.Stat(t.Context(), u.digest)
				case 2:
					commitOnce(t, store, driver.Spools(), u)
				default:
					pullSome(t, downloads, u)
				}
			}
		})
	}
	group.Wait()
	must(t, downloads.Drain(t.Context()))
	later.Wait()
	downloads.Close()
	// It ends the evictor, which may still delete content for the headroom: the counts
	// below must be those of one moment.
	must(t, store.Close())

	usage := store.Usage()
	var bytes int64
	var objects int
	for entry, err := range store.All(t.Context()) {
		must(t, err)
		bytes, objects = bytes+entry.Size, objects+1
	}
	if want := (evict.Usage{Stored: bytes, Objects: objects}); usage != want {
		t.Errorf("%+v is counted, the store has %+v", usage, want)
	}
	if bytes > limit {
		t.Errorf("%d bytes are stored, the limit is %d", bytes, limit)
	}
	if n, of := driver.Size(); n != bytes || of != int64(objects) {
		t.Errorf("the driver counts %d bytes in %d objects, and has %d in %d", n, of, bytes, objects)
	}
	left, err := filepath.Glob(filepath.Join(root, "tmp", "*", "*"))
	must(t, err)
	for _, path := range left {
		if filepath.Base(path) != "lock" {
			t.Errorf("%s is left over", path)
		}
	}
	if files := openFiles(t, root); len(files) > 1 { // the lock of the process
		t.Errorf("open files: %q", files)
	}
	must(t, driver.Close())
}

// openFiles returns the files below a directory that this process has open.
func openFiles(t *testing.T, root string) (paths []string) {
	entries, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	for _, entry := range entries {
		if path, err := os.Readlink(filepath.Join("/proc/self/fd", entry.Name())); err == nil && strings.HasPrefix(path, root) {
			paths = append(paths, path)
		}
	}
	return paths
}

// unreliable is an upstream that fails in a part of its answers.
type unreliable struct {
	body   []byte
	digest digest.Digest
}

func newUnreliable(size int) *unreliable {
	body := random(size)
	return &unreliable{body: body, digest: digest.FromBytes(body)}
}

var errUnreliable = errors.New("the upstream failed")

func (u *unreliable) open(ctx context.Context, offset, length int64) (*download.Stream, error) {
	size := int64(len(u.body))
	end := size
	if length >= 0 {
		end = min(end, offset+length)
	}
	if offset > end {
		return nil, fmt.Errorf("offset %d of %d", offset, end)
	}
	var content io.Reader = bytes.NewReader(u.body[offset:end])
	announced := size
	switch rand.IntN(10) {
	case 0:
		return nil, errUnreliable
	case 1:
		content = io.MultiReader(io.LimitReader(content, (end-offset)/2), broken{})
	case 2:
		wrong := bytes.Clone(u.body[offset:end])
		if len(wrong) > 0 {
			wrong[rand.IntN(len(wrong))]++
		}
		content = bytes.NewReader(wrong)
	case 3, 4:
		announced = -1
	}
	return &download.Stream{
		ReadCloser: io.NopCloser(slowly{ctx, content}), Size: announced, Origin: "upstream.test:443",
		Reject: func() bool { return rand.IntN(2) == 0 },
	}, nil
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errUnreliable }

// slowly delivers a blob in parts, until its context ends.
type slowly struct {
	ctx context.Context
	io.Reader
}

func (s slowly) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	if rand.IntN(4) == 0 {
		time.Sleep(rand.N(time.Millisecond))
	}
	return s.Reader.Read(p[:min(len(p), 32<<10)])
}

// pullSome reads a blob, or a part of it, as a client does.
func pullSome(t *testing.T, downloads *download.Group, u *unreliable) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if rand.IntN(4) == 0 {
		time.AfterFunc(rand.N(3*time.Millisecond), cancel)
	}
	repository := storage.RepoID{Namespace: fmt.Sprint("registry", rand.IntN(2)), Name: "app"}
	object, reader, err := downloads.Open(ctx, u.digest, download.Source{Repository: repository, Open: u.open})
	if err != nil {
		return
	}
	offset := rand.IntN(len(u.body) + 1)
	if rand.IntN(2) == 0 {
		offset = 0
	}
	var content io.ReadSeekCloser
	if object != nil {
		content = object.Content
	} else {
		if rand.IntN(8) == 0 {
			_ = reader.Complete()
			return
		}
		content = reader
		if _, err := reader.Wait(int64(offset), -1); err != nil {
			must(t, reader.Close())
			return
		}
	}
	if _, err := content.Seek(int64(offset), io.SeekStart); err != nil {
		t.Error(err)
	}
	from := io.Reader(content)
	if rand.IntN(3) == 0 {
		from = io.LimitReader(content, int64(rand.IntN(len(u.body)+1)))
	}
	got, err := io.ReadAll(from)
	if err == nil && from == content && len(got) != len(u.body)-offset {
		t.Errorf("%d bytes from %d, and a clean end at %d", len(u.body), offset, offset+len(got))
	}
	if err == nil && from == content && offset == 0 && !bytes.Equal(got, u.body) {
		t.Error("corrupt content came to a clean end")
	}
	if err := content.Close(); err != nil {
		t.Error(err)
	}
}

// commitOnce stores a blob beside its downloads.
func commitOnce(t *testing.T, store storage.Store, spools *spool.Dir, u *unreliable) {
	create := spools.Create
	if rand.IntN(2) == 0 {
		create = spools.CreateNoWait
	}
	s, err := create("", int64(len(u.body)))
	if err != nil {
		return // no room
	}
	if _, err := s.Write(u.body); err != nil {
		t.Error(err)
	}
	must(t, s.Complete())
	if err := store.Commit(t.Context(), u.digest, s); err != nil && !errors.Is(err, spool.ErrBusy) {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
