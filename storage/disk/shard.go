package disk

import (
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
)

// absent stands for the size of content that is not there.
const absent = -1

// shard is one blob directory, for one digest prefix.
type shard struct {
	algorithm digest.Algorithm
	prefix    string
	dir       string
	// made says that the directory exists and, if each one is flushed by itself, is flushed.
	made atomic.Bool
	// marked is called for marked files that a listing meets.
	marked func(digest.Digest)

	mu sync.Mutex // no I/O under it: all content of the shard shares it
	census
}

// census counts a shard's content while it changes. A change is begun before the
// filesystem is asked for the size before it, and ended after it took effect.
//
//	uncounted ──► counting ──► counted
//	    ▲             │
//	    └─────────────┘ the listing was abandoned
//
// The listing may see a file before or after its change. It therefore leaves out
// each file that changes during the count: its change counts the file when it
// ends, or the end of the count does if the change has ended by then.
type census struct {
	state    censusState
	changing map[string]bool  // names whose change has begun; true: the size before is counted
	changed  map[string]int64 // during the count: the size after the last change
}

type censusState uint8

const (
	uncounted censusState = iota
	counting
	counted
)

// begin notes that a file is about to change.
func (s *shard) begin(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changing == nil {
		s.changing = make(map[string]bool)
	}
	s.changing[name] = s.state == counted
}

// end notes that a file has changed, and returns the sizes to count out and in.
func (s *shard) end(name string, before, after int64) (out, in int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.changing[name]
	delete(s.changing, name)
	switch {
	case known: // the count includes the size before
		return before, after
	case s.state == counted: // the count has ended meanwhile, and left it out
		return absent, after
	case s.state == counting:
		s.changed[name] = after // for the end of the count
	}
	return absent, absent // the count includes the size after
}

// startCount begins the count. It reports false if that was done before.
func (s *shard) startCount() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != uncounted {
		return false
	}
	s.state, s.changed = counting, make(map[string]int64)
	return true
}

// giveUpCount ends a count whose listing was abandoned: nothing is counted.
func (s *shard) giveUpCount() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state, s.changed = uncounted, nil
}

// endCount ends the count and returns its sums: those of the listed files, with the
// present sizes of files that have changed since, and without those that are changing.
func (s *shard) endCount(listed []storage.Entry) (bytes, objects int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	count := func(size int64) {
		if size != absent {
			bytes, objects = bytes+size, objects+1
		}
	}
	for _, entry := range listed {
		name := entry.Digest.Encoded()
		_, changed := s.changed[name]
		if _, changing := s.changing[name]; !changed && !changing {
			count(entry.Size)
		}
	}
	for name, size := range s.changed {
		// A file may have changed and be changing again.
		if _, changing := s.changing[name]; !changing {
			count(size)
		}
	}
	s.state, s.changed = counted, nil
	return bytes, objects
}

// replace runs change, after which the content at path has the given size or is
// absent, and keeps count of the difference. It passes the size before to change. Only changes
// of the same content wait for each other.
func (b *blobs) replace(shard *shard, path string, size int64, change func(before int64) error) error {
	defer b.paths.Lock(path)()
	name := filepath.Base(path)
	shard.begin(name)
	before, err := fileSize(path)
	if err != nil {
		before = absent
	}
	err = change(before)
	// A change can fail halfway, so that the file is asked once more.
	if err != nil {
		var missing error
		if size, missing = fileSize(path); missing != nil {
			size = absent
		}
	}
	out, in := shard.end(name, before, size)
	b.add(out, -1)
	b.add(in, 1)
	return err
}

func (b *blobs) add(size, sign int64) {
	if size != absent {
		b.bytes.Add(sign * size)
		b.objects.Add(sign)
	}
}
