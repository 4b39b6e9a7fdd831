package hostile

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
)

// vandal damages stored files: it cuts and lengthens them, and puts links, pipes and
// directories in their places. The next client must still get the content.
func vandal(s *stage) actor {
	open := s.honest["open"].content
	wreck := func(ctx context.Context, a *attacker) {
		n := a.next()
		image := open.image(fmt.Sprint("w", 100+n%4)) // of its own: a pull after each deed would be slow
		dgst := image.blobs[n%int64(len(image.blobs))]
		path := "/v2/open/app/blobs/" + dgst.String()
		if got := a.get(ctx, path); got.status != http.StatusOK {
			return // the round is over
		}
		a.sent.Add(1)
		if err := damage(filepath.Join(s.mirror.Data, "blobs", dgst.Algorithm().String(), dgst.Encoded()[:2], dgst.Encoded()), open.body(dgst), int(n)); err != nil {
			s.violated("%s: %v", a.name, err)
			return
		}
		if got := a.getWhole(ctx, path); ctx.Err() == nil && (got.status != http.StatusOK || !bytes.Equal(got.body, open.body(dgst))) {
			s.violated("%s: after damage %d, a blob is %d with %d bytes of %d", a.name, n%damages, got.status, len(got.body), len(open.body(dgst)))
		}
	}
	return actor{name: "vandal", workers: 1, pause: 100 * time.Millisecond, attack: wreck}
}

const damages = 6

// damage puts something else in the place of a stored file, if it is there: the mirror may
// store it a little later. It never writes into the file itself, which clients may be reading.
func damage(path string, content []byte, kind int) (err error) {
	if found, err := os.Lstat(path); err != nil || !found.Mode().IsRegular() {
		return ignoreMissing(err)
	}
	aside := filepath.Join(filepath.Dir(path), "vandal")
	if err := os.RemoveAll(aside); err != nil {
		return err
	}
	switch kind % damages {
	case 0:
		err = os.WriteFile(aside, content[:len(content)/2], 0o600)
	case 1:
		err = os.WriteFile(aside, append(content, "more"...), 0o600)
	case 2:
		err = os.Symlink("/etc/passwd", aside)
	case 3:
		err = os.Symlink(path, aside) // in a loop
	case 4:
		err = syscall.Mkfifo(aside, 0o600)
	case 5:
		if err = os.Mkdir(aside, 0o700); err == nil {
			err = os.Remove(path) // a directory does not replace a file
		}
	}
	if err != nil {
		return err
	}
	return os.Rename(aside, path)
}

// ignoreMissing is for files that go while they are looked at.
func ignoreMissing(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

// blobOf makes a small blob, and its digest.
func blobOf(format string, args ...any) ([]byte, digest.Digest) {
	body := fmt.Appendf(nil, format, args...)
	return body, digest.FromBytes(body)
}
