package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/keylock"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/spool"
)

// blobs is the part of the tree that holds blobs.
type blobs struct {
	paths  keylock.Map[string] // of blobs that come or go
	root   string
	shards map[string]*shard // by the first characters of the digest: "sha256:" and two digits

	bytes, objects atomic.Int64 // in those shards that have been counted
	counted        atomic.Int64 // shards
}

// algorithms are those of the digests that a store has content of.
var algorithms = []digest.Algorithm{digest.SHA256, digest.SHA512}

// prefixes is how many shards an algorithm has: one for each two hex digits.
const prefixes = 256

func newBlobs(root string, marked func(digest.Digest)) *blobs {
	b := &blobs{root: root, shards: make(map[string]*shard)}
	for _, algorithm := range algorithms {
		for i := range prefixes {
			key := shardKey(algorithm, i)
			prefix := key[len(key)-2:]
			b.shards[key] = &shard{
				algorithm: algorithm,
				prefix:    prefix,
				dir:       filepath.Join(root, algorithm.String(), prefix),
				marked:    marked,
			}
		}
	}
	return b
}

// locate returns the place of a digest's content. No path is made from an invalid
// digest.
func (b *blobs) locate(dgst digest.Digest) (*shard, string, error) {
	if err := storage.ValidateDigest(dgst); err != nil {
		return nil, "", err
	}
	hex := dgst.Encoded()
	shard := b.shards[string(dgst[:len(dgst)-len(hex)+2])]
	return shard, filepath.Join(shard.dir, hex), nil
}

// Stat asks the filesystem.
func (s *Store) Stat(ctx context.Context, dgst digest.Digest) (storage.Info, error) {
	_, path, err := s.blobs.locate(dgst)
	if err != nil {
		return storage.Info{}, err
	}
	info, err := fileInfo(path)
	if err == nil && s.isSuspect(path, info) {
		var object *storage.Object
		if object, err = s.Open(ctx, dgst); err == nil {
			return object.Info, object.Content.Close()
		}
		return storage.Info{}, err
	}
	if err != nil {
		return storage.Info{}, notStored(dgst, "look up", err)
	}
	return storage.Info{Digest: dgst, Size: info.Size()}, nil
}

// Open opens the content. The object's Content is an *os.File. A file that cannot
// be opened, or that is not a regular one, counts as unreadable. A file that an earlier
// process had not flushed is hashed first.
func (s *Store) Open(ctx context.Context, dgst digest.Digest) (*storage.Object, error) {
	_, path, err := s.blobs.locate(dgst)
	if err != nil {
		return nil, err
	}
	file, info, err := s.openTrusted(ctx, dgst, path)
	switch {
	case err == nil:
		return &storage.Object{Info: storage.Info{Digest: dgst, Size: info.Size()}, Content: file}, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, notStored(dgst, "open", err)
	default:
		return nil, s.unreadable.explain(ctx, path, string(dgst), "open", err)
	}
}

// Commit makes the spool's file the content, without a copy. It replaces a file of
// another length that has the digest's name, since a filesystem that lost data in a
// power cut leaves such files, a file that cannot be opened, and one that an earlier process
// had not flushed.
func (s *Store) Commit(ctx context.Context, dgst digest.Digest, sp *spool.Spool) error {
	shard, path, err := s.blobs.locate(dgst)
	if err != nil {
		return err
	}
	doing := "store " + string(dgst)
	mode := fs.FileMode(fileMode)
	if s.flusher.marking() {
		mode |= mark
	}
	info, err := sp.Prepare(mode)
	// A filesystem that is full or broken may keep less than was written.
	if err == nil && info.Size() != sp.Size() {
		err = fmt.Errorf("its file has %d bytes instead of %d", info.Size(), sp.Size())
	}
	// Before the rename, or a power cut leaves the name without the bytes, and without a mark.
	if err == nil && mode&mark == 0 && s.durability != Never {
		err = s.sync(sp)
	}
	if err == nil {
		err = s.makeShard(shard)
	}
	if err == nil {
		err = s.publish(shard, sp, path, info)
	}
	if err == nil && mode&mark == 0 && s.durability != Never {
		err = s.tree.flushDir(shard.dir)
	}
	// A flush has failed since the mode was chosen. The next one does not tell again of bytes that
	// were lost in it (fsync(2), EIO).
	if err == nil && mode&mark != 0 && !s.flusher.behind.Load() {
		if err = s.sync(sp); err != nil {
			err = errors.Join(err, s.Delete(ctx, dgst))
		}
	}
	return explain(doing, err)
}

// present reports whether a blob of that size is stored, whose bytes are right as far as
// this process can know.
func (s *Store) present(path string, size int64) bool {
	file, info, err := s.tree.openRegular(path)
	return err == nil && file.Close() == nil && info.Size() == size && !s.isSuspect(path, info)
}

// makeShard makes a shard's directory. Once that is done, commits do not wait for
// the lock of the tree any more.
func (s *Store) makeShard(shard *shard) error {
	if shard.made.Load() {
		return nil
	}
	if err := s.tree.mkdirAll(shard.dir); err != nil {
		return err
	}
	shard.made.Store(true)
	return nil
}

// publish moves a spool's file to its final path, unless the content is there.
func (s *Store) publish(shard *shard, sp *spool.Spool, path string, info fs.FileInfo) error {
	return s.blobs.replace(shard, path, sp.Size(), func(before int64) error {
		if before == sp.Size() && s.present(path, before) {
			return nil // another commit may be flushing the directory, so this one does so too
		}
		err := sp.Rename(path)
		switch {
		// The directory has vanished since it was made, or a file has its place.
		case noDirectory(err):
			shard.made.Store(false)
			err = s.makeShard(shard)
		case isDirectory(err):
			err = s.tree.setAside(path)
		default:
			return s.published(path, info, err)
		}
		if err != nil {
			return err
		}
		return s.published(path, info, sp.Rename(path))
	})
}

// published notes that a file has its final path, if it has no error.
func (s *Store) published(path string, info fs.FileInfo, err error) error {
	if err == nil && isMarked(info) {
		s.flusher.commitFile(path, info)
	} else if err == nil {
		s.marks.forget(path)
	}
	return err
}

// Delete removes the file. Open files can be read on.
func (s *Store) Delete(_ context.Context, dgst digest.Digest) error {
	shard, path, err := s.blobs.locate(dgst)
	if err != nil {
		return err
	}
	// Remove would remove a directory too, and a file behind a link.
	if _, err := s.tree.plainSize(path); err != nil {
		return notStored(dgst, "remove", err)
	}
	err = s.blobs.replace(shard, path, absent, func(int64) error {
		s.marks.forget(path)
		return os.Remove(path)
	})
	return notStored(dgst, "remove", err)
}

// Touch records when a blob was last used, for All to tell, in the time of
// its file's last modification. That is not flushed: after a power cut the time
// may be an older one. It returns storage.ErrNotExist when there is no such
// content.
func (s *Store) Touch(_ context.Context, dgst digest.Digest, used time.Time) error {
	_, path, err := s.blobs.locate(dgst)
	if err != nil {
		return err
	}
	if _, err := s.tree.plainSize(path); err != nil { // Chtimes follows links
		return notStored(dgst, "record the use of", err)
	}
	return notStored(dgst, "record the use of", os.Chtimes(path, time.Time{}, used))
}

// fileInfo returns what the filesystem says about a regular file, or fs.ErrNotExist if there
// is none.
func fileInfo(path string) (fs.FileInfo, error) {
	info, err := os.Lstat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "lstat", Path: path, Err: fs.ErrNotExist}
	}
	return info, err
}

// fileSize returns the size of a regular file, or fs.ErrNotExist if there is none.
func fileSize(path string) (int64, error) {
	info, err := fileInfo(path)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// plainSize is fileSize of a file below directories that are not links.
func (t *tree) plainSize(path string) (int64, error) {
	if size, err := t.sizeAtOnce(path); !errors.Is(err, errUnsure) {
		return size, err
	}
	if link := t.foreign(filepath.Dir(path)); link != "" {
		return 0, &fs.PathError{Op: "lstat", Path: link, Err: fs.ErrNotExist}
	}
	return fileSize(path)
}

func notStored(dgst digest.Digest, doing string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s", storage.ErrNotExist, dgst)
	}
	return explain(doing+" "+string(dgst), err)
}
