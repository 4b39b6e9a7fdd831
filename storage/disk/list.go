package disk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/weirhq/weir/storage"
)

// A store of millions of blobs is listed at each start. A listing therefore opens only
// the directories that exist, and asks for each file once, relative to its directory.

// portion is how many names of a directory are in memory at once.
const portion = 512

// All reads one directory after the other. An entry's time is the one that Touch was
// last given, else that of the last byte that was written to it. A listing counts the
// content on its way, for Size.
func (s *Store) All(ctx context.Context) iter.Seq2[storage.Entry, error] {
	return func(yield func(storage.Entry, error) bool) {
		// A root that has vanished is an error and no empty store.
		_, err := os.Stat(s.blobs.root)
		if err := cmp.Or(context.Cause(ctx), explain("list the content", err)); err != nil {
			yield(storage.Entry{}, err)
			return
		}
		for _, algorithm := range algorithms {
			if !s.blobs.list(ctx, algorithm, yield) {
				return
			}
		}
	}
}

// count adds up the stored content. A shard that cannot be read to its end counts as far
// as it was read.
func (s *Store) count(ctx context.Context, logger *slog.Logger) {
	for _, err := range s.All(ctx) {
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			logger.Warn("cannot count all stored content", "error", err)
		}
	}
	bytes, objects := s.Size()
	logger.Debug("counted the stored content", "bytes", bytes, "objects", objects)
}

// list yields the blobs of one algorithm. It reports whether the caller wants more.
func (b *blobs) list(ctx context.Context, algorithm digest.Algorithm, yield func(storage.Entry, error) bool) bool {
	counts := make(map[*shard]bool, prefixes)
	// Before the directory is read: a shard that is made afterwards has only changes, which
	// are counted by themselves.
	for i := range prefixes {
		if shard := b.shards[shardKey(algorithm, i)]; shard.startCount() {
			counts[shard] = true
		}
	}
	defer func() {
		for shard := range counts {
			shard.giveUpCount()
		}
	}()
	present, err := names(filepath.Join(b.root, algorithm.String()))
	if err != nil {
		return yield(storage.Entry{}, explain("list the content", err))
	}
	var listed []storage.Entry
	for _, name := range present {
		shard := b.shards[algorithm.String()+":"+name]
		if shard == nil { // not ours
			continue
		}
		listed, err = shard.list(ctx, listed[:0])
		if ctx.Err() != nil {
			yield(storage.Entry{}, context.Cause(ctx))
			return false
		}
		if counts[shard] {
			// An older count is better than a part.
			if err == nil || !shard.giveUpRecount() {
				b.endCount(shard, listed)
			}
			delete(counts, shard)
		}
		for _, entry := range listed {
			if !yield(entry, nil) {
				return false
			}
		}
		if err != nil && !yield(storage.Entry{}, explain("list the content", err)) {
			return false
		}
	}
	for shard := range counts { // those that have no directory
		b.endCount(shard, nil)
		delete(counts, shard)
	}
	return true
}

// endCount ends the count of a shard with what its directory has listed.
func (b *blobs) endCount(shard *shard, listed []storage.Entry) {
	grown, first := shard.endCount(listed)
	b.add(grown)
	if first {
		b.counted.Add(1)
	}
}

// names returns the names in a directory, or none if there is no such directory.
func names(path string) ([]string, error) {
	dir, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	names, err := dir.Readdirnames(-1)
	return names, errors.Join(err, dir.Close())
}

// list appends the shard's blobs to listed, and ignores all else that is there. With an
// error it returns those that were read before.
func (s *shard) list(ctx context.Context, listed []storage.Entry) ([]storage.Entry, error) {
	dir, err := os.Open(s.dir)
	if errors.Is(err, fs.ErrNotExist) { // it has just gone
		return listed, nil
	}
	if err != nil {
		return listed, err
	}
	defer dir.Close()
	fd, stat := int(dir.Fd()), new(unix.Stat_t)
	for ctx.Err() == nil {
		names, err := dir.Readdirnames(portion)
		for _, name := range names {
			if entry, ok := s.entry(fd, name, stat); ok {
				listed = append(listed, entry)
			}
		}
		if err == io.EOF {
			return listed, nil
		}
		if err != nil {
			return listed, err
		}
	}
	return listed, context.Cause(ctx)
}

// entry returns the content of a name in the directory that is open as fd. It reports
// false for a file that is not content, or that has just gone. stat is only memory.
func (s *shard) entry(fd int, name string, stat *unix.Stat_t) (storage.Entry, bool) {
	if len(name) != 2*s.algorithm.Size() || name[:2] != s.prefix || !isHex(name) {
		return storage.Entry{}, false
	}
	if err := unix.Fstatat(fd, name, stat, unix.AT_SYMLINK_NOFOLLOW); err != nil || stat.Mode&unix.S_IFMT != unix.S_IFREG {
		return storage.Entry{}, false
	}
	entry := storage.Entry{
		Info: storage.Info{Digest: digest.Digest(string(s.algorithm) + ":" + name), Size: stat.Size},
		Used: time.Unix(stat.Mtim.Unix()),
	}
	if stat.Mode&unix.S_ISVTX != 0 {
		s.marked(entry.Digest)
	}
	return entry, true
}

// isHex reports whether a name has only the digits that digests are written with.
func isHex(name string) bool {
	for i := range len(name) {
		if c := name[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// shardKey returns the key of a shard: how the digests of its blobs begin.
func shardKey(algorithm digest.Algorithm, prefix int) string {
	return fmt.Sprintf("%s:%02x", algorithm, prefix)
}
