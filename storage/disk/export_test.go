package disk

import (
	"os"
	"runtime"
)

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
