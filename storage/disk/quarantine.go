package disk

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	quarantineDir = "quarantine" // below the root
	// maxQuarantined is how many bytes of a foreign file's path its name in the
	// quarantine keeps: with the time, a name has less than the 255 bytes that a
	// filesystem allows.
	maxQuarantined = 200
)

// quarantineTime is the form of the time in the name of a quarantined file. It
// sorts, and is fine enough to tell two of one digest apart.
const quarantineTime = "20060102T150405.000000000Z"

// Quarantine takes a blob that has become corrupt out of the store, for an
// operator to look at, and returns the path that it has now. The move is atomic
// and, with [Options.Sync], survives a power cut. Nothing serves from there. Beyond
// [Options.MaxQuarantine] the oldest goes. It returns storage.ErrNotExist when there is no
// such content.
//
// It may be called next to another process that serves from the same root. Readers
// there that have the content open read on in the same file; the next pull finds
// nothing, and downloads the content again.
func (s *Store) Quarantine(_ context.Context, dgst digest.Digest) (string, error) {
	return s.quarantine(dgst, nil)
}

// quarantine is Quarantine of one file. If it is nil, that is the one in the place of the
// content.
func (s *Store) quarantine(dgst digest.Digest, file fs.FileInfo) (string, error) {
	shard, path, err := s.blobs.locate(dgst)
	if err != nil {
		return "", err
	}
	if _, err := fileSize(path); err != nil {
		return "", notStored(dgst, "quarantine", err)
	}
	dir := filepath.Join(s.tree.root, quarantineDir)
	if err := s.tree.mkdirAll(dir); err != nil {
		return "", explain("quarantine "+string(dgst), err)
	}
	name := dgst.Algorithm().String() + "-" + dgst.Encoded() + "." + time.Now().UTC().Format(quarantineTime)
	kept := filepath.Join(dir, name)
	err = s.blobs.replace(shard, path, absent, func(int64) error {
		if file != nil {
			if now, err := os.Lstat(path); err != nil || !os.SameFile(now, file) {
				return errors.Join(err, &fs.PathError{Op: "rename", Path: path, Err: fs.ErrNotExist})
			}
		}
		s.marks.forget(path)
		return os.Rename(path, kept)
	})
	if err != nil {
		return "", notStored(dgst, "quarantine", err)
	}
	// In this order, a power cut leaves the content in both directories at worst.
	for _, dir := range []string{dir, shard.dir} {
		if s.durability == Never {
			break
		}
		if err := s.tree.flushDir(dir); err != nil {
			return kept, explain("quarantine "+string(dgst), err)
		}
	}
	if s.maxQuarantine > 0 {
		s.trimQuarantine(dir)
	}
	return kept, nil
}

// quarantined is the name of a blob in the quarantine.
var quarantined = regexp.MustCompile(`^(?:sha256|sha512)-[0-9a-f]+\.([0-9]{8}T[0-9]{6}\.[0-9]{9}Z)$`)

// trimQuarantine removes the oldest blobs of the quarantine, so that a disk that goes on
// losing sectors does not fill with their remains. The newest one stays whatever its size.
// Foreign files that were set aside stay too: an operator decides about them.
func (s *Store) trimQuarantine(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // the next quarantine tries again
	}
	type kept struct {
		path, time string
		size       int64
	}
	var all []kept
	for _, entry := range entries {
		name := quarantined.FindStringSubmatch(entry.Name())
		if info, err := entry.Info(); name != nil && err == nil && info.Mode().IsRegular() {
			all = append(all, kept{filepath.Join(dir, entry.Name()), name[1], info.Size()})
		}
	}
	slices.SortFunc(all, func(a, b kept) int { return cmp.Compare(b.time, a.time) }) // the newest first
	sum := int64(0)
	for n, k := range all {
		if sum += k.size; n > 0 && sum > s.maxQuarantine {
			_ = os.Remove(k.path) // another process may have removed it
		}
	}
}
