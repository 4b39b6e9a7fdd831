package evict_test

import (
	"context"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/evict"
	"github.com/weirhq/weir/storage/spool"
	"github.com/weirhq/weir/storage/storagetest"
)

// lookedAt is a store in which another reader sees each blob as soon as it is
// visible, before its Commit returns.
type lookedAt struct {
	storage.Store
	look func(digest.Digest)
}

func (s lookedAt) Commit(ctx context.Context, dgst digest.Digest, sp *spool.Spool) error {
	err := s.Store.Commit(ctx, dgst, sp)
	s.look(dgst)
	return err
}

// A blob that is read while it is being stored counts once: as reserved bytes,
// then as stored ones.
func TestCountsWhatArrivesOnce(t *testing.T) {
	quota := evict.NewQuota(1 << 20)
	memory := storagetest.NewMemoryWithin(t, quota)
	var l *evict.Store
	var usage evict.Usage
	store := lookedAt{memory, func(dgst digest.Digest) {
		if _, err := l.Stat(t.Context(), dgst); err != nil {
			t.Error(err)
		}
		object, err := l.Open(t.Context(), dgst)
		must(t, err)
		must(t, object.Content.Close())
		usage = l.Usage()
	}}
	l = evict.New(store, quota, evict.Options{})
	t.Cleanup(func() { must(t, l.Close()) })
	downloads := newDownloads(t, l, memory.Spools())
	o := &origin{body: random(100_000)}
	pullThrough(t, downloads, o)
	must(t, downloads.Drain(t.Context()))
	if usage.Stored != 0 || usage.Reserved != 100_000 {
		t.Errorf("while it was being stored: %+v", usage)
	}
	if got := l.Usage(); got.Stored != 100_000 || got.Reserved != 0 || got.Pinned != 0 || got.Objects != 1 {
		t.Errorf("in the end: %+v", got)
	}
}
