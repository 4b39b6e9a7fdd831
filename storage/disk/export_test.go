package disk

import "os"

// WaitForCount waits until the background work of Open has ended.
func (s *Store) WaitForCount() { s.background.Wait() }

// OnFlush calls f, in place of fsync, for each file and directory that the
// store flushes, except for spools.
func (s *Store) OnFlush(f func(*os.File) error) { s.tree.flush = f }
