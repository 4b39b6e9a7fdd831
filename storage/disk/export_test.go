package disk

import (
	"context"
	"io/fs"
	"os"
	"runtime"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage/spool"
)

// OnSync calls f, in place of fsync, for the file of each spool that is flushed by itself.
func (s *Store) OnSync(f func(*spool.Spool) error) { s.sync = f }

// WaitForCount waits until the background work of Open has ended.
func (s *Store) WaitForCount() { s.background.Wait() }

// WaitForSuspects waits until that many blobs of an earlier process were hashed.
func (s *Store) WaitForSuspects(n int64) {
	for s.suspects.intact.Load()+s.suspects.damaged.Load() < n {
		runtime.Gosched()
	}
}

// OnSyncfs calls f, in place of syncfs, to flush the filesystem.
func (s *Store) OnSyncfs(f func() error) { s.flusher.syncfs = f }

// Flush flushes the files that were written since the last flush, without a delay.
func (s *Store) Flush() { s.flusher.flush() }

// OnFlush calls f, in place of fsync, for each file and directory that the
// store flushes, except for spools.
func (s *Store) OnFlush(f func(*os.File) error) { s.tree.flush = f }

// LookByParts has the store look at each part of a path by itself, as it does if the kernel
// cannot refuse links. It reports whether the kernel can.
func (s *Store) LookByParts() bool {
	refusing := s.tree.refusing
	s.tree.refusing = false
	return refusing
}

// LockPath holds up commits of a blob at their rename, until unlock.
func (s *Store) LockPath(dgst digest.Digest) (unlock func(), err error) {
	_, path, err := s.blobs.locate(dgst)
	return s.blobs.paths.Lock(path), err
}

// NoteRecord notes that a record was written, so that there is something to flush.
func (s *Store) NoteRecord() { s.flusher.commitRecord() }

// Discard is discard.
func (s *Store) Discard(ctx context.Context, dgst digest.Digest, info fs.FileInfo) error {
	return s.discard(ctx, dgst, info)
}

// PathOf returns the path of a blob.
func (s *Store) PathOf(dgst digest.Digest) string {
	_, path, err := s.blobs.locate(dgst)
	if err != nil {
		panic(err)
	}
	return path
}
