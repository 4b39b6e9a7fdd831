package disk

import (
	"context"
	"crypto/rand"
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

// blobs is the part of the tree that holds contents.
type blobs struct {
	paths  keylock.Map[string] // of contents that come or go
	root   string
	shards map[string]*shard // by the first characters of the digest: "sha256:" and two digits

	bytes, objects atomic.Int64 // in those shards that have been counted
	counted        atomic.Int64 // shards
}

// algorithms are those of the digests that a store has content of.
var algorithms = []digest.Algorithm{digest.SHA256, digest.SHA512}

// prefixes is how many shards an algorithm has: one for each two hex digits.
const prefixes = 256

func newBlobs(root string) *blobs {
	b := &blobs{root: root, shards: make(map[string]*shard)}
	for _, algorithm := range algorithms {
		for i := range prefixes {
			key := shardKey(algorithm, i)
			prefix := key[len(key)-2:]
			b.shards[key] = &shard{
				algorithm: algorithm,
				prefix:    prefix,
				dir:       filepath.Join(root, algorithm.String(), prefix),
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
func (s *Store) Stat(_ context.Context, dgst digest.Digest) (storage.Info, error) {
	_, path, err := s.blobs.locate(dgst)
	if err != nil {
		return storage.Info{}, err
	}
	size, err := fileSize(path)
	if err != nil {
		return storage.Info{}, notStored(dgst, "look up", err)
	}
	return storage.Info{Digest: dgst, Size: size}, nil
}

// Open opens the content. The object's Content is an *os.File. A file that cannot
// be opened, or that is not a regular one, counts as unreadable.
func (s *Store) Open(ctx context.Context, dgst digest.Digest) (*storage.Object, error) {
	_, path, err := s.blobs.locate(dgst)
	if err != nil {
		return nil, err
	}
	file, size, err := s.tree.openRegular(path)
	switch {
	case err == nil:
		return &storage.Object{Info: storage.Info{Digest: dgst, Size: size}, Content: file}, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, notStored(dgst, "open", err)
	default:
		return nil, s.unreadable.explain(ctx, path, string(dgst), "open", err)
	}
}

// Commit makes the spool's file the content, without a copy. It replaces a file of
// another length that has the digest's name, since a filesystem that lost data in a
// power cut leaves such files, and a file that cannot be opened.
func (s *Store) Commit(_ context.Context, dgst digest.Digest, sp *spool.Spool) error {
	shard, path, err := s.blobs.locate(dgst)
	if err != nil {
		return err
	}
	doing := "store " + string(dgst)
	if file, size, err := s.tree.openRegular(path); err == nil && file.Close() == nil && size == sp.Size() {
		// Another commit may have put it there, and still be flushing the directory.
		return explain(doing, s.tree.syncDir(shard.dir))
	}
	// Before the rename, or a power cut leaves the name without the bytes.
	if s.tree.sync {
		if err := sp.Sync(); err != nil {
			return explain(doing, err)
		}
	}
	if err := s.makeShard(shard); err != nil {
		return explain(doing, err)
	}
	if err := s.publish(shard, sp, path); err != nil {
		return explain(doing, err)
	}
	return explain(doing, s.tree.syncDir(shard.dir))
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

// publish moves a spool's file to its final path. It goes by way of the
// workspace, where its length and mode are made right before it can be found.
func (s *Store) publish(shard *shard, sp *spool.Spool, path string) error {
	staged := filepath.Join(s.workspace.path, "commit-"+rand.Text())
	if err := sp.Rename(staged); err != nil {
		return err
	}
	// A filesystem that is full or broken may keep less than was written.
	size, err := fileSize(staged)
	if err == nil && size != sp.Size() {
		err = fmt.Errorf("%s has %d bytes in place of %d", staged, size, sp.Size())
	}
	if err == nil {
		err = os.Chmod(staged, fileMode)
	}
	if err == nil {
		err = s.blobs.replace(shard, path, sp.Size(), func() error {
			err := os.Rename(staged, path)
			switch {
			// The directory has vanished since it was made, or a file has its place.
			case noDirectory(err):
				shard.made.Store(false)
				err = s.makeShard(shard)
			case isDirectory(err):
				err = s.tree.setAside(path)
			default:
				return err
			}
			if err != nil {
				return err
			}
			return os.Rename(staged, path)
		})
	}
	if err != nil {
		// The spool does not remove a file that was renamed.
		return errors.Join(err, os.Remove(staged))
	}
	return nil
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
	err = s.blobs.replace(shard, path, absent, func() error { return os.Remove(path) })
	return notStored(dgst, "remove", err)
}

// Touch records when a content was last used, for All to tell, in the time of
// its file's last modification. That is not flushed: after a power cut the time
// may be an older one. It returns storage.ErrNotExist when there is no such
// content.
func (s *Store) Touch(_ context.Context, dgst digest.Digest, used time.Time) error {
	_, path, err := s.blobs.locate(dgst)
	if err != nil {
		return err
	}
	if _, err := s.tree.plainSize(path); err != nil { // Chtimes follows links
		return notStored(dgst, "note the use of", err)
	}
	return notStored(dgst, "note the use of", os.Chtimes(path, time.Time{}, used))
}

// fileSize returns the size of a regular file, or fs.ErrNotExist if there is
// none.
func fileSize(path string) (int64, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return 0, err
	}
	if !info.Mode().IsRegular() {
		return 0, &fs.PathError{Op: "lstat", Path: path, Err: fs.ErrNotExist}
	}
	return info.Size(), nil
}

// plainSize is fileSize of a file below directories that are no links.
func (t *tree) plainSize(path string) (int64, error) {
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
