package evict_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"testing"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/download"
	"github.com/weirhq/weir/storage/spool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func random(n int) []byte {
	p := make([]byte, n)
	rand.Read(p)
	return p
}

// origin is an upstream that delivers one blob.
type origin struct {
	body   []byte
	noSize bool // the upstream does not announce the size
}

func (o *origin) open(_ context.Context, offset, length int64) (*download.Stream, error) {
	size := int64(len(o.body))
	end := size
	if length >= 0 {
		end = min(end, offset+length)
	}
	if o.noSize {
		size = -1
	}
	return &download.Stream{
		ReadCloser: io.NopCloser(bytes.NewReader(o.body[offset:end])),
		Size:       size,
		Origin:     "upstream.test:443",
		Reject:     func() bool { return false },
	}, nil
}

// newDownloads returns downloads into store through spools.
func newDownloads(t *testing.T, store storage.Store, spools *spool.Dir) *download.Group {
	t.Helper()
	downloads := download.NewGroup(download.Options{Store: store, Spools: spools, MaxFetches: 8})
	t.Cleanup(downloads.Close)
	return downloads
}

// pullThrough reads a blob from the store or from its download.
func pullThrough(t *testing.T, downloads *download.Group, o *origin) []byte {
	source := download.Source{Repository: storage.RepoID{Namespace: "docker.io", Name: "library/app"}, Open: o.open}
	object, reader, err := downloads.Open(t.Context(), digest.FromBytes(o.body), source)
	if err != nil {
		t.Error(err)
		return nil
	}
	var got []byte
	if object != nil {
		got, err = io.ReadAll(object.Content)
		err = errors.Join(err, object.Content.Close())
	} else {
		if _, err = reader.Wait(0, -1); err == nil {
			got, err = io.ReadAll(reader)
		}
		err = errors.Join(err, reader.Close())
	}
	if err != nil {
		t.Error(err)
	}
	return got
}
