package disk

import (
	"io/fs"
	"maps"
	"sync"
	"syscall"
)

// maxMarked bounds the files whose marks this process remembers, each with some 200 bytes. A
// content beyond that is flushed by itself, so that a disk that is slower than the upstreams
// slows the downloads down.
const maxMarked = 65536

// marks are the marked files of content that this process trusts: it has written them, or
// hashed them. Each has a path and an inode, since another process may replace the file.
//
//	fresh ──► flushing ──► (no mark)
//	              └──────► stuck: its mark cannot be cleared
type marks struct {
	mu       sync.Mutex
	fresh    map[string]uint64 // in their places since the last flush began
	flushing map[string]uint64 // in their places before it began
	stuck    map[string]uint64
	records  bool // one was written since the last flush began
}

func newMarks() *marks {
	return &marks{fresh: map[string]uint64{}, flushing: map[string]uint64{}, stuck: map[string]uint64{}}
}

// inode returns the number of a file's inode.
func inode(info fs.FileInfo) uint64 {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok { // cannot be: the file is one of the system
		return 0
	}
	return stat.Ino
}

// add notes a marked file that is in its place and has the right bytes.
func (m *marks) add(path string, info fs.FileInfo) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.flushing, path)
	delete(m.stuck, path)
	m.fresh[path] = inode(info)
}

// addRecord notes that a record was written.
func (m *marks) addRecord() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.records = true
}

// forget notes that a file leaves its place.
func (m *marks) forget(path string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.fresh, path)
	delete(m.flushing, path)
	delete(m.stuck, path)
}

// trusts reports whether a marked file is one that this process has written or hashed.
func (m *marks) trusts(path string, info fs.FileInfo) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, known := range []map[string]uint64{m.fresh, m.flushing, m.stuck} {
		if inode(info) == known[path] { // no inode has the number 0
			return true
		}
	}
	return false
}

// begin begins a flush, and returns the files that it makes durable. It reports false if
// there is nothing to flush.
func (m *marks) begin() (paths []string, wanted bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	wanted = m.records || len(m.fresh) > 0
	m.flushing, m.fresh, m.records = m.fresh, m.flushing, false // none is flushing between flushes
	for path := range m.flushing {
		paths = append(paths, path)
	}
	return paths, wanted
}

// flushed returns the inode of a file that was in its place before the flush began and still
// is as far as this process knows, or 0.
func (m *marks) flushed(path string) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.flushing[path]
}

// end ends the flush of a file. A mark that could not be cleared stays for this process.
func (m *marks) end(path string, cleared bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if inode, found := m.flushing[path]; found && !cleared {
		m.stuck[path] = inode
	}
	delete(m.flushing, path)
}

// drop forgets all files that may not have been flushed, and returns them.
func (m *marks) drop() (paths []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, lost := range []map[string]uint64{m.fresh, m.flushing} {
		for path := range lost {
			paths = append(paths, path)
		}
		clear(lost)
	}
	return paths
}

// keep leaves the marks of the files of a flush that cannot be made.
func (m *marks) keep() {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.Copy(m.stuck, m.flushing)
	clear(m.flushing)
}

// count returns how many marked files this process trusts.
func (m *marks) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.fresh) + len(m.flushing) + len(m.stuck)
}
