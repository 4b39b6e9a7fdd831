package disk

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"maps"
	"os"
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
	// made says that the directory exists and, with Options.Sync, is flushed.
	made atomic.Bool

	mu sync.Mutex // no I/O under it: all content of the shard shares it
	census
}

// census counts a shard's content while it changes. A change is begun before the
// filesystem is asked for the size before it, and ended after it took effect.
//
//	uncounted ──► counting ──► counted
//
// The listing may see a file before or after its change. It therefore leaves out
// each file that changes during the count: its change counts the file when it
// ends, or the end of the count does if the change has ended by then.
type census struct {
	state    censusState
	changing map[string]bool  // paths whose change has begun; true: the size before is counted
	changed  map[string]int64 // during the count: the size after the last change
}

type censusState uint8

const (
	uncounted censusState = iota
	counting
	counted
)

// begin notes that a file is about to change.
func (s *shard) begin(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changing == nil {
		s.changing = make(map[string]bool)
	}
	s.changing[path] = s.state == counted
}

// end notes that a file has changed, and returns the sizes to count out and in.
func (s *shard) end(path string, before, after int64) (out, in int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.changing[path]
	delete(s.changing, path)
	switch {
	case known: // the count includes the size before
		return before, after
	case s.state == counted: // the count has ended meanwhile, and left it out
		return absent, after
	case s.state == counting:
		s.changed[path] = after // for the end of the count
	}
	return absent, absent // the count includes the size after
}

// startCount begins the count.
func (s *shard) startCount() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state, s.changed = counting, make(map[string]int64)
}

// endCount ends the count. It replaces the sizes of listed files that have
// changed since, and removes those that are changing.
func (s *shard) endCount(listed map[string]int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// In this order: a file may have changed and be changing again.
	maps.Copy(listed, s.changed)
	for path := range s.changing {
		delete(listed, path)
	}
	s.state, s.changed = counted, nil
}

// replace runs change, after which the content at path has the given size or is
// absent, and keeps count of the difference. Only changes of the same content
// wait for each other.
func (b *blobs) replace(shard *shard, path string, size int64, change func() error) error {
	defer b.paths.Lock(path)()
	shard.begin(path)
	before, err := fileSize(path)
	if err != nil {
		before = absent
	}
	err = change()
	// A change can fail halfway, so that the file is asked once more.
	if err != nil {
		var missing error
		if size, missing = fileSize(path); missing != nil {
			size = absent
		}
	}
	out, in := shard.end(path, before, size)
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

// count adds up the stored content, shard by shard. A shard that cannot be read
// to its end counts as far as it was read.
func (b *blobs) count(ctx context.Context, logger *slog.Logger) {
	for _, shard := range b.shards {
		if err := b.countShard(ctx, shard); ctx.Err() != nil {
			return
		} else if err != nil {
			logger.Warn("cannot count all stored content", "error", explain("list the contents", err))
		}
	}
	logger.Debug("counted the stored content", "bytes", b.bytes.Load(), "objects", b.objects.Load())
}

func (b *blobs) countShard(ctx context.Context, shard *shard) error {
	shard.startCount()
	listed := make(map[string]int64)
	var failure error
	for entry, err := range shard.entries(ctx) {
		if err != nil {
			failure = err
			break
		}
		listed[filepath.Join(shard.dir, entry.Digest.Encoded())] = entry.Size
	}
	shard.endCount(listed)
	for _, size := range listed {
		b.add(size, 1)
	}
	return failure
}

// entries lists a shard's contents, and ignores all else that is there.
func (s *shard) entries(ctx context.Context) iter.Seq2[storage.Entry, error] {
	return func(yield func(storage.Entry, error) bool) {
		dir, err := os.Open(s.dir)
		if errors.Is(err, fs.ErrNotExist) { // no content of this shard has been stored yet
			return
		}
		if err != nil {
			yield(storage.Entry{}, err)
			return
		}
		defer dir.Close()
		for {
			// In portions, since a shard of a large store has many thousands.
			files, err := dir.ReadDir(512)
			for _, file := range files {
				if ctx.Err() != nil {
					yield(storage.Entry{}, context.Cause(ctx))
					return
				}
				if entry, ok := s.entry(file); ok && !yield(entry, nil) {
					return
				}
			}
			if err == io.EOF {
				return
			}
			if err != nil {
				yield(storage.Entry{}, err)
				return
			}
		}
	}
}

// entry reports false for a file that is no content, or that has just gone.
func (s *shard) entry(file fs.DirEntry) (storage.Entry, bool) {
	dgst := digest.NewDigestFromEncoded(s.algorithm, file.Name())
	if file.Name()[:min(2, len(file.Name()))] != s.prefix || storage.ValidateDigest(dgst) != nil {
		return storage.Entry{}, false
	}
	info, err := file.Info() // an error means that the file has gone since
	if err != nil || !info.Mode().IsRegular() {
		return storage.Entry{}, false
	}
	return storage.Entry{Info: storage.Info{Digest: dgst, Size: info.Size()}, Used: info.ModTime()}, true
}
