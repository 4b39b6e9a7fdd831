package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/keylock"
	"github.com/weirhq/weir/internal/notify"
	"github.com/weirhq/weir/storage"
)

// hashStep is how many bytes of a suspect are hashed between two looks at the context.
const hashStep = 256 << 10

// suspects are marked files that this process has not written: an earlier process ended, or
// its machine did, before they were flushed. Each is hashed before it is served. The
// listing of the store finds them, and a goroutine hashes those that no client asks for.
type suspects struct {
	hashing keylock.Map[string] // by path

	mu    sync.Mutex
	found map[digest.Digest]struct{} // at most maxMarked; the others wait for their first use
	more  notify.Signal

	intact, damaged atomic.Int64
}

// find notes a suspect for the goroutine.
func (p *suspects) find(dgst digest.Digest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.found) < maxMarked {
		p.found[dgst] = struct{}{}
		p.more.Notify()
	}
}

// next removes one of the suspects, or returns "".
func (p *suspects) next() digest.Digest {
	p.mu.Lock()
	defer p.mu.Unlock()
	for dgst := range p.found {
		delete(p.found, dgst)
		return dgst
	}
	return ""
}

func newSuspects() *suspects {
	return &suspects{found: map[digest.Digest]struct{}{}, more: notify.NewSignal()}
}

// check hashes the suspects that the listing finds, until the context ends.
func (s *Store) check(ctx context.Context, logger *slog.Logger) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.suspects.more.C():
		}
		intact, damaged := s.suspects.intact.Load(), s.suspects.damaged.Load()
		for dgst := s.suspects.next(); dgst != "" && ctx.Err() == nil; dgst = s.suspects.next() {
			if _, err := s.Stat(ctx, dgst); err != nil && ctx.Err() == nil && !errors.Is(err, storage.ErrNotExist) {
				logger.Debug("cannot verify content that an earlier process had not flushed", "digest", dgst, "error", err)
			}
		}
		if n := s.suspects.intact.Load() + s.suspects.damaged.Load() - intact - damaged; n > 0 {
			logger.Info("verified content that an earlier process had not flushed to the disk",
				"objects", n, "damaged", s.suspects.damaged.Load()-damaged)
		}
	}
}

// isSuspect reports whether a file has to be hashed before it is served. Maintenance beside
// the process that serves hashes what it reads by itself.
func (s *Store) isSuspect(path string, info fs.FileInfo) bool {
	return isMarked(info) && !s.existing && !s.marks.trusts(path, info)
}

// openTrusted opens a blob whose bytes are right as far as this process can know. It
// removes a blob from the store that was torn by a power cut.
func (s *Store) openTrusted(ctx context.Context, dgst digest.Digest, path string) (*os.File, fs.FileInfo, error) {
	for {
		file, info, err := s.tree.openRegular(path)
		if err != nil || !s.isSuspect(path, info) {
			return file, info, err
		}
		ok, err := s.vet(ctx, dgst, path, file, info)
		if ok {
			return file, info, nil
		}
		if err := errors.Join(err, file.Close()); err != nil {
			return nil, nil, err
		}
	}
}

// vet hashes a suspect, once for all that wait for it. It reports false, and no error, if the
// file has left its place meanwhile, or does now since its bytes are wrong.
func (s *Store) vet(ctx context.Context, dgst digest.Digest, path string, file *os.File, info fs.FileInfo) (bool, error) {
	defer s.suspects.hashing.Lock(path)()
	if s.marks.trusts(path, info) {
		return true, nil
	}
	if now, err := os.Lstat(path); err != nil || !os.SameFile(now, info) {
		return false, nil
	}
	right, err := matches(ctx, dgst, file)
	if err != nil {
		return false, err
	}
	if !right {
		return false, s.discard(ctx, dgst, info)
	}
	s.suspects.intact.Add(1)
	defer s.blobs.paths.Lock(path)()
	// A commit may have put another file in its place while this one was hashed.
	if now, err := os.Lstat(path); err == nil && os.SameFile(now, info) && s.marks.count() < maxMarked {
		s.flusher.commitFile(path, info)
	}
	return true, nil
}

// discard quarantines a suspect with wrong bytes, unless another file has its place by now.
func (s *Store) discard(ctx context.Context, dgst digest.Digest, info fs.FileInfo) error {
	place, err := s.quarantine(dgst, info)
	if errors.Is(err, storage.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	s.logger.WarnContext(ctx, "content that an earlier process had not flushed to the disk is damaged. It was quarantined and will be fetched again. A power failure has this effect",
		"digest", dgst, "path", place)
	s.suspects.damaged.Add(1)
	return nil
}

// matches reports whether a file has the bytes of a digest. The position of the file stays.
func matches(ctx context.Context, dgst digest.Digest, file *os.File) (bool, error) {
	verifier, buffer := dgst.Verifier(), make([]byte, hashStep)
	for at := int64(0); ; {
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		n, err := file.ReadAt(buffer, at)
		if _, err := verifier.Write(buffer[:n]); err != nil {
			return false, err
		}
		at += int64(n)
		if err == io.EOF {
			return verifier.Verified(), nil
		}
		if err != nil {
			return false, fmt.Errorf("hash stored content: %w", err)
		}
	}
}
