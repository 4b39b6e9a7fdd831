package maintain

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/regular"
	"github.com/weirhq/weir/internal/whoami"
	"github.com/weirhq/weir/storage"
)

// ErrNoRegistry says that a directory holds the content of no registry.
var ErrNoRegistry = errors.New("there is no content of a registry")

const (
	// maxContents bounds the memory of a list: about 150 bytes for each blob.
	maxContents = 20 << 20
	// maxSkips is how many skipped files are remembered with their reasons. Further
	// ones are counted.
	maxSkips = 100
	// dirBatch is how many entries of a directory are read at a time.
	dirBatch = 1024
)

// levels lead from a directory that an operator names to the directory of blobs:
// from the root of Distribution, from Harbor's data volume, from directories within
// these, and from the root of Angos.
var levels = []string{"docker/registry/v2/blobs", "registry/docker/registry/v2/blobs", "registry/v2/blobs", "v2/blobs", "blobs", "."}

// RegistryDir lists the blobs in the directory of another registry. Distribution,
// Harbor and Angos keep each blob at
//
//	.../v2/blobs/<algorithm>/<first two hex digits>/<hex>/data
type RegistryDir struct {
	// Path is the directory of the blobs, such as /var/lib/registry/docker/registry/v2/blobs.
	Path     string
	Total    Amount
	contents []foreign // the newest first
	skips    Skips
}

// foreign is a blob in the directory of another registry.
type foreign struct {
	storage.Info
	modified int64 // Unix nanoseconds
}

// Skip is a file or directory that was not imported.
type Skip struct {
	Path string
	Err  error
}

// Skips are the first skips, and the number of all.
type Skips struct {
	First []Skip
	Count int64
}

func (s *Skips) add(path string, err error) {
	s.Count++
	if len(s.First) < maxSkips {
		s.First = append(s.First, Skip{path, whoami.Explain(err)})
	}
}

// ListRegistryDir lists the blobs in the directory of a registry. The path may be
// the root of the registry or any directory down to that of the blobs. Links,
// devices and files that belong to no content are skipped. ListRegistryDir returns
// ErrNoRegistry if the path leads to no blobs.
func ListRegistryDir(ctx context.Context, path string) (*RegistryDir, error) {
	blobs, err := findContents(path)
	if err != nil {
		return nil, err
	}
	d := &RegistryDir{Path: blobs}
	err = d.each(ctx, blobs, func(name string, entry fs.DirEntry) error {
		algorithm := digest.Algorithm(name)
		if !entry.IsDir() || !algorithm.Available() {
			d.skips.add(filepath.Join(blobs, name), errors.New("it is not the directory of an algorithm such as sha256"))
			return nil
		}
		return d.listAlgorithm(ctx, algorithm)
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(d.contents, func(a, b foreign) int {
		return cmp.Or(cmp.Compare(b.modified, a.modified), cmp.Compare(a.Digest, b.Digest))
	})
	return d, nil
}

// findContents returns the directory that holds directories of algorithms.
func findContents(path string) (string, error) {
	if digest.Algorithm(filepath.Base(path)).Available() {
		path = filepath.Dir(path)
	}
	for _, level := range levels {
		for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
			blobs := filepath.Join(path, level)
			info, err := os.Stat(filepath.Join(blobs, algorithm.String()))
			if err == nil && info.IsDir() {
				return blobs, nil
			}
			if errors.Is(err, fs.ErrPermission) {
				return "", whoami.Explain(err)
			}
		}
	}
	return "", fmt.Errorf("%w in %s. It must be the directory in which Distribution, Harbor or Angos stores content, or a directory below it, such as %s",
		ErrNoRegistry, path, filepath.Join(path, levels[0]))
}

// each calls a function with the entries of a directory. A directory that cannot be
// read is skipped.
func (d *RegistryDir) each(ctx context.Context, dir string, use func(name string, entry fs.DirEntry) error) error {
	file, err := os.Open(dir)
	if err != nil {
		d.skips.add(dir, err)
		return nil
	}
	defer file.Close()
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		entries, err := file.ReadDir(dirBatch)
		for _, entry := range entries {
			if err := use(entry.Name(), entry); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			d.skips.add(dir, err)
			return nil
		}
	}
}

// listAlgorithm lists the blobs with digests of one algorithm.
func (d *RegistryDir) listAlgorithm(ctx context.Context, algorithm digest.Algorithm) error {
	root := filepath.Join(d.Path, algorithm.String())
	return d.each(ctx, root, func(prefix string, entry fs.DirEntry) error {
		shard := filepath.Join(root, prefix)
		if !entry.IsDir() {
			d.skips.add(shard, errors.New("it is not a directory of content"))
			return nil
		}
		return d.each(ctx, shard, func(hex string, entry fs.DirEntry) error {
			if len(d.contents) == maxContents {
				return fmt.Errorf("%s has more than %d objects", d.Path, maxContents)
			}
			if err := d.list(algorithm, prefix, hex, entry); err != nil {
				d.skips.add(filepath.Join(shard, hex), err)
			}
			return nil
		})
	})
}

// list adds one blob, or returns why there is none.
func (d *RegistryDir) list(algorithm digest.Algorithm, prefix, hex string, entry fs.DirEntry) error {
	dgst := digest.NewDigestFromEncoded(algorithm, hex)
	switch {
	case !entry.IsDir():
		return errors.New("it is not a directory of content")
	case storage.ValidateDigest(dgst) != nil || hex[:2] != prefix:
		return errors.New("its name is not a digest that belongs in this directory")
	}
	info, err := os.Lstat(d.file(dgst))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("it has no file data")
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("its data is %w", regular.ErrNotRegular)
	}
	d.contents = append(d.contents, foreign{storage.Info{Digest: dgst, Size: info.Size()}, info.ModTime().UnixNano()})
	d.Total.add(info.Size(), 1)
	return nil
}

// file returns the path of a blob.
func (d *RegistryDir) file(dgst digest.Digest) string {
	hex := dgst.Encoded()
	return filepath.Join(d.Path, dgst.Algorithm().String(), hex[:2], hex, "data")
}
