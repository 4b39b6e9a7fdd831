package tests

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// damages are the ways in which a file of the store can become unusable. The mirror
// of the test runs as a user without privileges.
var damages = map[string]func(path string) error{
	"owned by another user": func(path string) error { return errors.Join(os.Chown(path, 0, 0), os.Chmod(path, 0o600)) },
	"mode 000":              func(path string) error { return os.Chmod(path, 0) },
	"link to itself":        replaceBy(func(path string) error { return os.Symlink(filepath.Base(path), path) }),
	"link elsewhere":        replaceBy(func(path string) error { return os.Symlink("/etc/passwd", path) }),
	"directory":             replaceBy(func(path string) error { return os.Mkdir(path, 0o777) }),
	"pipe":                  replaceBy(func(path string) error { return syscall.Mkfifo(path, 0o666) }),
	"cut":                   func(path string) error { return cutTo(path, 1) },
	"emptied":               func(path string) error { return os.Truncate(path, 0) },
	"grown":                 func(path string) error { return cutTo(path, -1) },
	"huge and sparse":       func(path string) error { return os.Truncate(path, 1<<40) },
	"parent is closed":      func(path string) error { return os.Chmod(filepath.Dir(path), 0) },
	"parent is a file": func(path string) error {
		return replaceBy(func(dir string) error { return os.WriteFile(dir, nil, 0o600) })(filepath.Dir(path))
	},
}

func replaceBy(plant func(path string) error) func(path string) error {
	return func(path string) error { return errors.Join(os.RemoveAll(path), plant(path)) }
}

// cutTo takes some bytes of the end of a file away, or adds some.
func cutTo(path string, bytes int64) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return os.Truncate(path, info.Size()-bytes)
}

// unprivileged makes a command run as a user without privileges, in a directory of
// that user's.
func unprivileged(t *testing.T) (dir string, prepare func(*exec.Cmd)) {
	t.Helper()
	const user = 65532
	dir, err := os.MkdirTemp("", "weir-unprivileged-")
	harness.Must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	harness.Must(t, os.Chown(dir, user, user))
	// The directory of the binary is closed to other users.
	binary := filepath.Join(dir, "weir")
	harness.Must(t, os.Link(harness.Binary(t), binary))
	return dir, func(cmd *exec.Cmd) {
		cmd.Path, cmd.Args[0] = binary, binary
		for _, config := range []string{"base.toml", "config.toml"} {
			harness.Must(t, os.Chown(filepath.Join(dir, config), user, user))
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
	}
}

// Weir refuses a data directory that others may write to, and says how to mend it. A
// volume with Kubernetes' fsGroup belongs to root, and Weir's group may write to it.
func TestDataDirectoryOfOthers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		uid, gid int
		mode     os.FileMode
		refused  string
	}{
		"its own":                {65532, 65532, 0o750, ""},
		"fsGroup":                {0, 65532, os.ModeSetgid | 0o775, ""},
		"shared as /tmp":         {0, 0, os.ModeSticky | 0o777, ""},
		"all may write":          {65532, 65532, 0o777, "Run chmod o-w,g-w"},
		"emptyDir":               {0, 65532, os.ModeSetgid | 0o777, "a new directory below it"},
		"another group's":        {65532, 12345, 0o770, "group 12345"},
		"another user's":         {12345, 65532, 0o770, "Run chown -R"},
		"another user's, mode 7": {12345, 12345, 0o707, "Run chown -R"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, prepare := unprivileged(t)
			data := filepath.Join(dir, "data")
			harness.Must(t, errors.Join(os.Mkdir(data, 0o755), os.Chown(data, c.uid, c.gid), os.Chmod(data, c.mode)))
			if c.refused == "" {
				w := harness.StartWeirAs(t, dir, block("mirror", upstreamtest.New(t)), prepare)
				expect(t, "ready", w.Get(t, "/readyz"), 200, "")
				return
			}
			harness.WriteFile(t, filepath.Join(dir, "base.toml"), "")
			harness.WriteFile(t, filepath.Join(dir, "config.toml"), "[server]\nport = 0\n")
			cmd := exec.CommandContext(t.Context(), harness.Binary(t), "serve", "--config", filepath.Join(dir, "config.toml"), "--data", data)
			prepare(cmd)
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), c.refused) || !strings.Contains(string(out), data) {
				t.Errorf("%v, %s, want %q", err, out, c.refused)
			}
		})
	}
}

// A stored file that cannot be used is fetched again, whatever happened to it, and
// costs each client that pulls it at most one request upstream.
func TestDamagedContent(t *testing.T) {
	t.Parallel()
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, prepare := unprivileged(t)
			upstream := upstreamtest.New(t)
			large := random(t, 3*mib, 300)
			image := upstream.AddImage("org/app", "v1", []byte("a layer"), large)
			blobs := []digest.Digest{digest.FromString("a layer"), digest.FromBytes(large)}
			config := block("mirror", upstream, "tag_ttl = \"1h\"")
			first := harness.StartWeirAs(t, dir, config, prepare)
			expectContent(t, "manifest", first.Get(t, manifestPath("mirror/org/app", "v1")), image.Digest, statusStored)
			for _, blob := range blobs {
				expectContent(t, "blob", first.Get(t, blobPath("mirror/org/app", blob)), blob, statusStored)
			}
			first.MetricIs(t, 0, "weir_downloads")
			first.Terminate(t)
			for _, dgst := range append(blobs, image.Digest) {
				harness.Must(t, damage(filepath.Join(first.Data, "blobs", "sha256", dgst.Encoded()[:2], dgst.Encoded())))
			}

			next := harness.StartWeirAs(t, dir, config, prepare)
			upstream.ResetRequests()
			for range 2 { // the second pull shows whether the first one mended it
				expectContent(t, "manifest", next.Get(t, manifestPath("mirror/org/app", "v1")), image.Digest, "")
				for _, blob := range blobs {
					expectContent(t, "blob", next.Get(t, blobPath("mirror/org/app", blob)), blob, "")
				}
				next.MetricIs(t, 0, "weir_downloads")
			}
			if name == "parent is closed" { // no process without privileges can mend that
				return
			}
			// A tag whose manifest is visibly gone counts as not cached. If only opening
			// the manifest shows the damage, the tag is known, and its digest is asked for.
			ref := "v1"
			if name == "mode 000" || name == "owned by another user" {
				ref = image.Digest.String()
			}
			expectWire(t, upstream, "damaged", "GET "+manifestPath("org/app", ref)+" 200",
				"GET "+blobPath("org/app", blobs[0])+" 200", "GET "+blobPath("org/app", blobs[1])+" 200")
			next.ExpectIntact(t)
		})
	}
}

// Records that cannot be used count as absent: their upstream is asked, and they are
// written again.
func TestDamagedRecords(t *testing.T) {
	t.Parallel()
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, prepare := unprivileged(t)
			upstream := upstreamtest.New(t)
			image := upstream.AddImage("org/app", "v1", []byte("a layer"))
			layer := digest.FromString("a layer")
			config := block("mirror", upstream, "immutable_tags = true")
			first := harness.StartWeirAs(t, dir, config, prepare)
			expectContent(t, "manifest", first.Get(t, manifestPath("mirror/org/app", "v1")), image.Digest, statusStored)
			expectContent(t, "layer", first.Get(t, blobPath("mirror/org/app", layer)), layer, statusStored)
			lists := []string{"/v2/mirror/org/app/tags/list", "/v2/mirror/org/app/referrers/" + image.Digest.String()}
			for _, list := range lists {
				expect(t, list, first.Get(t, list), 200, "")
			}
			first.MetricIs(t, 0, "weir_downloads")
			first.Terminate(t)
			for _, record := range first.Stored(t, "records", "mirror") {
				// A record that shares its directory with another one is gone already.
				err := damage(filepath.Join(first.Data, record))
				if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
					t.Fatal(err)
				}
			}

			next := harness.StartWeirAs(t, dir, config, prepare)
			for range 2 {
				expectContent(t, "manifest", next.Get(t, manifestPath("mirror/org/app", "v1")), image.Digest, "")
				expectContent(t, "layer", next.Get(t, blobPath("mirror/org/app", layer)), layer, "")
				for _, list := range lists {
					expect(t, list, next.Get(t, list), 200, "")
				}
				next.MetricIs(t, 0, "weir_downloads")
			}
			if name == "parent is closed" { // no process without privileges can mend that
				return
			}
			expectContent(t, "mended manifest", next.Get(t, manifestPath("mirror/org/app", "v1")), image.Digest, statusHit)
			expectContent(t, "mended layer", next.Get(t, blobPath("mirror/org/app", layer)), layer, statusHit)
			expect(t, "ready", next.Get(t, "/readyz"), 200, "")
		})
	}
}

// A stored blob that the disk cannot read to its end is fetched again by the next client.
// A client that leaves is no damage.
func TestReadErrorIsMended(t *testing.T) {
	testutil.Long(t, "stops the mirror at its reads")
	t.Parallel()
	for name, c := range map[string]struct {
		nth     int
		errno   syscall.Errno
		request string // Range
		damage  bool
	}{
		"from the start":          {nth: 1, errno: syscall.EIO, damage: true},
		"in the middle":           {nth: 2, errno: syscall.EIO, damage: true},
		"a range":                 {nth: 1, errno: syscall.EIO, request: "bytes=2000000-", damage: true},
		"the disk's sector":       {nth: 2, errno: syscall.ENODATA, damage: true},
		"a checksum":              {nth: 2, errno: syscall.EBADMSG, damage: true},
		"the filesystem's order":  {nth: 1, errno: syscall.EUCLEAN, damage: true},
		"the client is gone":      {nth: 1, errno: syscall.EPIPE},
		"the connection is reset": {nth: 2, errno: syscall.ECONNRESET},
		"no memory for a moment":  {nth: 1, errno: syscall.ENOMEM},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			upstream := upstreamtest.New(t)
			dgst := addRandom(t, upstream, "org/app", 16*mib, 310) // more than one call sends
			path := blobPath("mirror/org/app", dgst)
			s := startSupervised(t, t.TempDir(), block("mirror", upstream))
			expectContent(t, "cold", s.Get(t, path), dgst, statusStored)
			s.MetricIs(t, 0, "weir_downloads")
			upstream.ResetRequests()
			s.aim(sendfile, c.nth, c.errno)
			var headers []string
			if c.request != "" {
				headers = []string{"Range", c.request}
			}
			a := s.Get(t, path, headers...)
			if _, hit := s.rest(); !hit {
				t.Fatal("no call was spoilt")
			}
			if a.Err == nil {
				t.Errorf("the client took %d bytes for the whole", len(a.Body))
			}
			if !c.damage {
				expectContent(t, "again", s.Get(t, path), dgst, statusHit)
				expectWire(t, upstream, "no damage")
				return
			}
			s.Logs(t, "stored content cannot be read completely", dgst.String())
			expectContent(t, "again", s.Get(t, path), dgst, statusStored)
			s.MetricIs(t, 0, "weir_downloads")
			expectContent(t, "mended", s.Get(t, path), dgst, statusHit)
			expectWire(t, upstream, "mended", "GET "+blobPath("org/app", dgst)+" 200")
			s.MetricIs(t, 1, "weir_store_quarantined_total")
			if kept := s.Stored(t, "quarantine"); len(kept) != 1 {
				t.Errorf("quarantined: %q", kept)
			}
		})
	}
}
