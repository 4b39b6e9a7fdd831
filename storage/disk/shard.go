package disk

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
)

// absent stands for the size of what is not there.
const absent = -1

// shard is one directory of contents, whose digests begin alike.
type shard struct {
	algorithm digest.Algorithm
	prefix    string
	dir       string

	// mu is held while a content of the shard comes or goes, and while the
	// shard is counted. Until then, changes are not counted one by one.
	mu      sync.Mutex
	counted bool
}

// replace runs change, after which the content at path has the given size or is
// absent, and keeps count of the difference. Change must not flush anything: the
// mutex is shared by all contents of the shard.
func (b *blobs) replace(shard *shard, path string, size int64, change func() error) error {
	shard.mu.Lock()
	defer shard.mu.Unlock()
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
	if shard.counted {
		b.add(before, -1)
		b.add(size, 1)
	}
	return err
}

func (b *blobs) add(size, sign int64) {
	if size != absent {
		b.bytes.Add(sign * size)
		b.objects.Add(sign)
	}
}

// count adds up what is stored, shard by shard. A shard that cannot be read is
// counted as far as it could.
func (b *blobs) count(ctx context.Context, log *slog.Logger) {
	for _, shard := range b.shards {
		if err := b.countShard(ctx, shard); ctx.Err() != nil {
			return
		} else if err != nil {
			log.Warn("cannot count all that is stored", "error", explain("list the contents", err))
		}
	}
	log.Debug("counted what is stored", "bytes", b.bytes.Load(), "objects", b.objects.Load())
}

func (b *blobs) countShard(ctx context.Context, shard *shard) error {
	shard.mu.Lock()
	defer shard.mu.Unlock()
	shard.counted = true
	for entry, err := range shard.entries(ctx) {
		if err != nil {
			return err
		}
		b.add(entry.Size, 1)
	}
	return nil
}

// entries lists a shard's contents, and ignores all else that is there.
func (s *shard) entries(ctx context.Context) iter.Seq2[storage.Entry, error] {
	return func(yield func(storage.Entry, error) bool) {
		dir, err := os.Open(s.dir)
		if errors.Is(err, fs.ErrNotExist) {
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
	info, err := file.Info()
	if err != nil || !info.Mode().IsRegular() {
		return storage.Entry{}, false
	}
	return storage.Entry{Info: storage.Info{Digest: dgst, Size: info.Size()}, Used: info.ModTime()}, true
}
