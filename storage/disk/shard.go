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
//	uncounted ◄──► counting ───► counted ◄──► recounting
//
// A count that is abandoned leads back to where it began. A recount corrects the sum, since other
// processes change the content too.
//
// The listing may see a file before or after its change. It therefore leaves out
// each file that changes during the count: its change counts the file when it
// ends, or the end of the count does if the change has ended by then.
type census struct {
	state    censusState
	sum      tally            // since the first count has ended
	changing map[string]bool  // names whose change has begun; true: sum has the size before
	changed  map[string]int64 // during a count: the size after the last change
}

// tally is how much content there is, or by how much that has grown.
type tally struct{ bytes, objects int64 }

// add adds or, with a sign of -1, removes a blob.
func (t *tally) add(size, sign int64) {
	if size != absent {
		t.bytes += sign * size
		t.objects += sign
	}
}

type censusState uint8

const (
	uncounted censusState = iota
	counting
	counted
	recounting
)

// begin notes that a file is about to change.
func (s *shard) begin(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changing == nil {
		s.changing = make(map[string]bool)
	}
	s.changing[name] = s.state >= counted
}

// end notes that a file has changed, and returns by how much the sum has grown.
func (s *shard) end(name string, before, after int64) (grown tally) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.changing[name]
	delete(s.changing, name)
	if s.state == counting || s.state == recounting {
		if s.changed == nil {
			s.changed = make(map[string]int64)
		}
		s.changed[name] = after // for the end of the count
	}
	if s.state < counted { // that count includes the size after
		return grown
	}
	if known { // else a count has ended meanwhile, and left the file out
		grown.add(before, -1)
	}
	grown.add(after, 1)
	s.sum.bytes += grown.bytes
	s.sum.objects += grown.objects
	return grown
}

// startCount begins a count. It reports false if another listing is counting.
func (s *shard) startCount() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch s.state {
	case uncounted:
		s.state = counting
	case counted:
		s.state = recounting
	default:
		return false
	}
	return true
}

// giveUpCount ends a count whose listing was abandoned: the sum stays.
func (s *shard) giveUpCount() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == counting {
		s.state = uncounted
	} else {
		s.state = counted
	}
	s.changed = nil
}

// giveUpRecount is giveUpCount, unless the count is the first one. It reports whether that was so.
func (s *shard) giveUpRecount() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == counting {
		return false
	}
	s.state, s.changed = counted, nil
	return true
}

// endCount ends the count and returns by how much the sum has grown. The new sum has the listed
// files, with the present sizes of files that have changed since, and without those that are
// changing. It reports whether it was the first count.
func (s *shard) endCount(listed []storage.Entry) (grown tally, first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var now tally
	for _, entry := range listed {
		name := entry.Digest.Encoded()
		_, changed := s.changed[name]
		if _, changing := s.changing[name]; !changed && !changing {
			now.add(entry.Size, 1)
		}
	}
	for name, size := range s.changed {
		// A file may have changed and be changing again.
		if _, changing := s.changing[name]; !changing {
			now.add(size, 1)
		}
	}
	for name := range s.changing {
		s.changing[name] = false
	}
	grown = tally{now.bytes - s.sum.bytes, now.objects - s.sum.objects}
	first = s.state == counting
	s.state, s.sum, s.changed = counted, now, nil
	return grown, first
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
	b.add(shard.end(name, before, size))
	return err
}

func (b *blobs) add(grown tally) {
	b.bytes.Add(grown.bytes)
	b.objects.Add(grown.objects)
}
